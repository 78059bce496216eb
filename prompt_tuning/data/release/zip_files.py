"""The exceptions of `zipfile` for other and for incomplete files."""

import zipfile
import zlib

MALFORMED = (
  zipfile.BadZipFile,
  zlib.error,
  EOFError,
  NotImplementedError,  # A compression that zipfile does not know.
  RuntimeError,  # A password.
)
