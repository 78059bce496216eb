"""What `zipfile` raises for a file that is no zip file, or not a whole one."""

import zipfile
import zlib

MALFORMED = (
  zipfile.BadZipFile,
  zlib.error,
  EOFError,
  NotImplementedError,  # A compression that zipfile does not know.
  RuntimeError,  # A password.
)
