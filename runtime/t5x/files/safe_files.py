"""Files that are replaced whole, and the treatment of damaged ones.

Content is written to a new file with an unpredictable name beside the old one,
forced to disk, and renamed: a reader sees the old or the new content, even
after a crash, and nobody can plant a link at that name. In a bucket, objects
are written whole anyway.
"""

from collections.abc import Iterator, Sequence
import contextlib
import hashlib
import io
import os
import pathlib
import re
import secrets
from typing import BinaryIO

from absl import logging
from etils import epath

from t5x.files import failures, storage

# More bytes than a record takes.
_RESERVE_BYTES = 1 << 16
# `.NAME.RANDOM.tmp`
_TEMPORARY = re.compile(r"\..+\.[0-9a-f]{12}\.tmp")


@contextlib.contextmanager
def replacing(path: str | os.PathLike[str]) -> Iterator[BinaryIO]:
  """Replaces a file whole; an error inside the `with` leaves it as it was.

  Args:
    path: The file. A link is replaced, not followed.

  Yields:
    The file to write the new content to.

  Raises:
    failures.StoreError: if it cannot be written; no new file is left.
  """
  if "://" in os.fspath(path):
    # An object in a bucket appears whole or not at all.
    buffer = io.BytesIO()
    yield buffer
    with failures.explained(path):
      epath.Path(path).write_bytes(buffer.getvalue())
    return
  path = pathlib.Path(path)
  temporary = path.with_name(f".{path.name}.{secrets.token_hex(6)}.tmp")
  try:
    with failures.explained(path):
      with open(temporary, "xb") as file:
        yield file
        file.flush()
        os.fsync(file.fileno())
      os.replace(temporary, path)
  finally:
    temporary.unlink(missing_ok=True)


def write(path: str | os.PathLike[str], content: str | bytes) -> None:
  """Replaces a file whole or leaves it as it was; see `replacing`.

  Args:
    path: The file.
    content: Text is encoded as UTF-8.
  """
  with replacing(path) as file:
    file.write(content.encode() if isinstance(content, str) else content)


class PartialFile:
  """A file that is written in chunks and resumes where it was cut off.

  Until it is whole, its chunks are files in the folder `<path>.partial`. The
  name of a chunk has the number of its first line and the SHA-256 of its
  content. Any damaged part is written again.

  Attributes:
    num_lines: Number of whole lines so far.
  """

  def __init__(self, path: str):
    """Opens the file, and removes any damaged part.

    Args:
      path: The path of the whole file.
    """
    self._path = path
    self._folder = epath.Path(f"{path}.partial")
    self._chunks: list[epath.Path] = []
    self.num_lines = 0
    for name in storage.files(self._folder):
      file = self._folder / name
      content = file.read_bytes()
      if name == self._name(content):
        self._chunks.append(file)
        self.num_lines += content.count(b"\n")
      else:
        file.unlink()
        logging.warning(
          "%s is damaged; lines from %d are written again.",
          file,
          self.num_lines,
        )

  def _name(self, content: bytes) -> str:
    """Returns the name of the next chunk."""
    return f"{self.num_lines:012d}-{hashlib.sha256(content).hexdigest()}"

  def write(self, lines: Sequence[str]) -> None:
    """Adds a chunk of whole lines."""
    content = "".join(lines).encode()
    self._folder.mkdir(parents=True, exist_ok=True)
    file = self._folder / self._name(content)
    write(file, content)
    self._chunks.append(file)
    self.num_lines += len(lines)

  def finish(self) -> None:
    """Writes the whole file, and removes the chunks."""
    with replacing(self._path) as whole:
      for file in self._chunks:
        whole.write(file.read_bytes())
    self._folder.rmtree(missing_ok=True)


class Reserve:
  """Reserved disk space, freed for a last file if the disk is full."""

  def __init__(self, beside: str):
    """Reserves space in the folder of a file."""
    path = pathlib.Path(beside)
    name = f".{path.name}.{secrets.token_hex(6)}.tmp"
    self._path = None if storage.is_bucket(beside) else path.with_name(name)
    if self._path is not None:
      with failures.explained(path):
        self._path.write_bytes(bytes(_RESERVE_BYTES))

  def free(self) -> None:
    """Frees the space; if this fails, the next run in the folder frees it."""
    if self._path is not None:
      with contextlib.suppress(OSError):
        self._path.unlink(missing_ok=True)


def set_aside(path: str | os.PathLike[str], why: str, instead: str) -> str:
  """Renames a damaged file or folder, and logs a warning.

  Args:
    path: The file or folder.
    why: A description of the damage.
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


def remove_leftovers(folder: str | os.PathLike[str]) -> None:
  """Removes the temporary files that a killed process left in a folder.

  Args:
    folder: The folder; no other process may be writing to it.
  """
  if not storage.is_bucket(folder):
    for path in pathlib.Path(folder).glob(".*.tmp"):
      if _TEMPORARY.fullmatch(path.name):
        path.unlink(missing_ok=True)
