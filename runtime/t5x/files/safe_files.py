"""Files that are replaced whole, and the treatment of damaged ones.

Content goes into a new file of an unpredictable name beside the old one, is
forced to disk, and is renamed: a reader sees the old or the new content, even
after a crash, and nobody can plant a link at that name. In a bucket, objects
are written whole anyway.
"""

from collections.abc import Callable, Iterator
import contextlib
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
  """Replaces a file whole; an error inside the `with` leaves it as it was.

  Args:
    path: The file. A link is replaced, not followed.

  Yields:
    The file to write the new content to.

  Raises:
    OSError: if it cannot be written; it names the file, and leaves nothing new.
  """
  if "://" in os.fspath(path):
    # An object in a bucket appears whole or not at all.
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
    # The error of a full disk names no file.
    raise OSError(error.errno, error.strerror, str(path)) from error


def write(path: str | os.PathLike[str], content: str | bytes) -> None:
  """Replaces a file whole or leaves it as it was; see `replacing`.

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
    why: The damage, in words.
    instead: A sentence that says how the caller continues without it.

  Returns:
    The new path: `<path>.damaged`, or `<path>.damaged_2` and so on.
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


def remove_leftovers(
  folder: str | os.PathLike[str], is_ours: Callable[[str], bool]
) -> None:
  """Removes the temporary files that a killed process left in a folder.

  Args:
    folder: The folder; no other process may be writing to it.
    is_ours: Takes the name of a file that a temporary one was to replace, and
      returns whether the caller writes it.
  """
  if storage.is_bucket(folder):
    return
  for path in pathlib.Path(folder).glob(".*.tmp"):
    # `.NAME.RANDOM.tmp`
    name = path.name.removeprefix(".").removesuffix(".tmp").rpartition(".")[0]
    if name and is_ours(name):
      path.unlink(missing_ok=True)
