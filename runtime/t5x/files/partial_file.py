"""A file that is written in chunks and resumes where it was cut off.

`<path>.partial` has the chunks; beside it, `<path>.partial.digests` has a line
for each: its end in bytes, the number of lines up to there, and the SHA-256 of
everything up to there. Any damaged part is written again.
"""

from collections.abc import Sequence
import hashlib
import json

from absl import logging
from etils import epath

from t5x.files import storage


class PartialFile:
  """A partial file that takes more chunks.

  Attributes:
    num_lines: Whole lines so far.
  """

  def __init__(self, path: str):
    """Opens the file, and cuts off any damaged part.

    Args:
      path: The path of the whole file.
    """
    self._path = path
    self._partial = f"{path}.partial"
    self._digests = f"{path}.partial.digests"
    self._hash = hashlib.sha256()
    self.num_lines = 0
    size, entries = self._good_part()
    self._data = storage.GrowingFile(self._partial, size)
    self._log = storage.GrowingFile(self._digests, entries)

  def _good_part(self) -> tuple[int, int]:
    """Returns the sizes in bytes of the undamaged parts of both files."""
    try:
      log = epath.Path(self._digests).read_bytes()
      entries = log.splitlines(keepends=True)
      content = epath.Path(self._partial).read_bytes()
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
        "%s has %d whole lines; the rest is written again.",
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
    entry = [self._data.size, self.num_lines, self._hash.hexdigest()]
    self._log.write(json.dumps(entry).encode() + b"\n")

  def close(self, is_whole: bool) -> None:
    """Closes the file, and renames it to its final name if it is whole."""
    self._log.close()
    self._data.close(is_whole)
    if is_whole:
      epath.Path(self._partial).replace(self._path)
      epath.Path(self._digests).unlink(missing_ok=True)
