"""Files that are whole or not there, and what to do with one that is neither.

Content goes into a new file of an unpredictable name beside the old one, is
forced to disk, and takes its name: a reader sees the old or the new content,
also after a crash, and nobody can lay a link where it is written. In a bucket,
an object is written whole as it is.
"""

from collections.abc import Callable, Iterator
import contextlib
import hashlib
import io
import os
import pathlib
import secrets
from typing import BinaryIO

from absl import logging
from etils import epath

from t5x.files import storage


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
    try:
      with open(temporary, "xb") as file:
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


def set_aside(path: str | os.PathLike[str], why: str, instead: str) -> str:
  """Renames a damaged file or folder, and logs a warning.

  Args:
    path: The file or folder.
    why: What is wrong with it.
    instead: What is done without it; a sentence.

  Returns:
    Its new path: `<path>.damaged`, or `<path>.damaged_2` and so on.
  """
  path = os.fspath(path)
  new, number = f"{path}.damaged", 1
  while os.path.islink(new) or epath.Path(new).exists():
    number += 1
    new = f"{path}.damaged_{number}"
  storage.rename(path, new)
  logging.warning(
    "%s is damaged (%s); it is kept as %s. %s", path, why, new, instead
  )
  return new


def digest(path: str | os.PathLike[str]) -> str:
  """Returns the SHA-256 of a file's content, in hexadecimal digits."""
  digest = hashlib.sha256()
  with epath.Path(path).open("rb") as file:
    while block := file.read(2**20):
      digest.update(block)
  return digest.hexdigest()


def remove_leftovers(
  folder: str | os.PathLike[str], is_ours: Callable[[str], bool]
) -> None:
  """Removes what `write` left in a folder when its process was killed.

  Args:
    folder: The folder; nobody else may be writing to it.
    is_ours: Whether a file of that name, without the additions, is written by
      the caller.
  """
  if storage.is_bucket(folder):
    return
  for path in pathlib.Path(folder).glob(".*.tmp"):
    # `.NAME.RANDOM.tmp`
    name = path.name.removeprefix(".").removesuffix(".tmp").rpartition(".")[0]
    if name and is_ours(name):
      path.unlink(missing_ok=True)
