"""The writer of prompts and vocabularies, which need no trainer."""

import os
import secrets

from etils import epath


def write(path: str | os.PathLike[str], content: bytes) -> None:
  """Replaces a file whole, or leaves it as it was.

  Args:
    path: The file. A link is replaced, not followed. An object of a bucket
      appears whole as it is.
    content: The new content.

  Raises:
    OSError: if it cannot be written; it names the file, and nothing new stays.
  """
  target = epath.Path(path)
  if "://" in os.fspath(path):
    target.write_bytes(content)
    return
  # Nobody can have laid a link at an unpredictable name.
  temporary = target.with_name(f".{target.name}.{secrets.token_hex(6)}.tmp")
  try:
    with open(temporary, "xb") as file:
      file.write(content)
      file.flush()
      os.fsync(file.fileno())
    os.replace(temporary, path)
  except OSError as error:
    # That of a full disk names no file.
    raise OSError(error.errno, error.strerror, str(path)) from error
  finally:
    temporary.unlink(missing_ok=True)
