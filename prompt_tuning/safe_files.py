"""Files that are whole or not there.

As `t5x.files.safe_files`, which Google's T5X does not have: content goes into
a new file of an unpredictable name beside the old one, where nobody can have
laid a link, and takes its name when it is on disk.
"""

from collections.abc import Iterator
import contextlib
import io
import os
import pathlib
import secrets
from typing import BinaryIO

from etils import epath


@contextlib.contextmanager
def replacing(path: str | os.PathLike[str]) -> Iterator[BinaryIO]:
  """Replaces a file whole, or, where that is left by an error, not at all.

  Args:
    path: The file. A link is replaced, not followed.

  Yields:
    What to write the new content to.

  Raises:
    OSError: if it cannot be written; it names the file, and nothing new stays.
  """
  if "://" in os.fspath(path):
    # An object of a bucket appears whole or not at all.
    buffer = io.BytesIO()
    yield buffer
    epath.Path(path).write_bytes(buffer.getvalue())
    return
  path = pathlib.Path(path)
  try:
    temporary = path.parent / f".{path.name}.{secrets.token_hex(6)}.tmp"
    # Not tempfile's, which nobody else may read; and no link is followed.
    descriptor = os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o666)
    try:
      with os.fdopen(descriptor, "wb") as file:
        yield file
        file.flush()
        os.fsync(file.fileno())
      os.replace(temporary, path)
    except BaseException:
      with contextlib.suppress(OSError):
        os.unlink(temporary)
      raise
  except OSError as error:
    if error.errno is None:
      raise
    # That of a full disk names no file.
    raise OSError(error.errno, error.strerror, str(path)) from error


def write(path: str | os.PathLike[str], content: str | bytes) -> None:
  """Replaces a file whole, or not at all, as `replacing` does.

  Args:
    path: The file.
    content: Text is encoded as UTF-8.
  """
  with replacing(path) as file:
    file.write(content.encode() if isinstance(content, str) else content)
