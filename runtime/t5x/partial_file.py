"""A file that is written in chunks, and goes on where it was cut off.

`<path>.partial` has the chunks; beside it, `<path>.partial.digests` has a line
for each: its end in bytes, the lines up to there, and the SHA-256 of all that.
What is not what was written, in whatever way, is written again.
"""

from collections.abc import Sequence
import hashlib
import json
import os
from typing import BinaryIO

from absl import logging


class PartialFile:
  """The file, open for more."""

  def __init__(self, path: str):
    """Opens the file, and cuts off what is damaged.

    Args:
      path: Of the whole file.
    """
    self._path = path
    self._partial = f"{path}.partial"
    self._digests = f"{path}.partial.digests"
    self._hash = hashlib.sha256()
    # Lines that are there already.
    self.num_lines = 0
    size, entries = self._good_part()
    self._data = _open_cut(self._partial, size)
    self._log = _open_cut(self._digests, entries)

  def _good_part(self) -> tuple[int, int]:
    """Returns the sizes, in bytes, of what is good in the two files."""
    try:
      with open(self._digests, "rb") as log, open(self._partial, "rb") as data:
        entries, content = log.read().splitlines(keepends=True), data.read()
    except FileNotFoundError:
      return 0, 0
    size = used = 0
    for entry in entries:
      try:
        end, num_lines, digest = json.loads(entry)
        chunk = content[size:end]
      except (ValueError, TypeError, RecursionError):
        break
      so_far = self._hash.copy()
      so_far.update(chunk)
      if end <= size or end > len(content) or so_far.hexdigest() != digest:
        break
      self._hash, self.num_lines = so_far, num_lines
      size, used = end, used + len(entry)
    if size < len(content):
      logging.warning(
        "Of %s, %d lines are whole; what follows is written again.",
        self._partial,
        self.num_lines,
      )
    return size, used

  def write(self, lines: Sequence[str]) -> None:
    """Adds a chunk."""
    chunk = "".join(lines).encode()
    self._hash.update(chunk)
    self.num_lines += len(lines)
    self._data.write(chunk)
    self._data.flush()
    entry = [self._data.tell(), self.num_lines, self._hash.hexdigest()]
    self._log.write(json.dumps(entry).encode() + b"\n")
    self._log.flush()

  def close(self, is_whole: bool) -> None:
    """Closes the file, and gives it its name if it is whole."""
    self._log.close()
    if is_whole:
      os.fsync(self._data.fileno())
    self._data.close()
    if is_whole:
      os.replace(self._partial, self._path)
      os.unlink(self._digests)


def _open_cut(path: str, size: int) -> BinaryIO:
  """Opens a file behind its first bytes; what followed them is gone."""
  if size == 0 and os.path.lexists(path):
    # It may be anything, such as a link.
    os.unlink(path)
  file = open(path, "r+b" if size else "xb")  # noqa: SIM115
  file.truncate(size)
  file.seek(size)
  return file
