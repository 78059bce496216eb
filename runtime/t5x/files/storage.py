"""Where a run lives, a disk or a bucket (`gs://`), and what differs there.

On a disk a folder gets another name at once, and a file grows. A bucket has
objects only, each of which appears whole or not at all, but cannot grow; a
folder is no more than the objects whose names begin with its own. So a
checkpoint there is whole if it has `MARK`, as Orbax says, which is written
last and deleted first, and a new name is a copy.
"""

from collections.abc import Iterator
import contextlib
import importlib.util
import os
import pathlib
import shutil
import tempfile
from typing import BinaryIO

from etils import epath
import fsspec

# Orbax's, of a checkpoint in a bucket.
MARK = "commit_success.txt"
# What other checkpoints have: ours from a disk, and T5X's format 3.
_OTHER_MARKS = ("digests.json", "checkpoint")
Path = str | os.PathLike[str]

# Without the extra `gcs`, epath can still read: by TensorFlow.
HAS_GCS = importlib.util.find_spec("gcsfs") is not None
if HAS_GCS:
  for _protocol in ("gs", "gcs"):
    fsspec.register_implementation(
      _protocol, "t5x.files.gcs_file_system.FileSystem", clobber=True
    )


def is_bucket(path: Path) -> bool:
  """Whether a path is one of a bucket."""
  return "://" in os.fspath(path)


def absolute(path: Path) -> epath.Path:
  """Returns a path that means the same from any working directory."""
  path = os.fspath(path)
  return epath.Path(path if is_bucket(path) else os.path.abspath(path))


def file_system(path: Path) -> fsspec.AbstractFileSystem:
  """Returns what a bucket can do beyond `epath`.

  Raises:
    ValueError: if this needs the extra `gcs`, and that is not installed.
  """
  protocol = os.fspath(path).partition("://")[0]
  if protocol != "gs":
    raise ValueError(
      f"{path}: runs live on a disk or at gs://, not at {protocol}://."
    )
  if not HAS_GCS:
    raise ValueError(
      f"{path}: to write to a bucket, pip install 'prompt-tuning[gcs]'."
    )
  return fsspec.filesystem("gcs", finalize_on_close=True)


def is_whole(checkpoint: Path) -> bool:
  """Whether a folder `checkpoint_<step>` is not one that is half written."""
  folder = epath.Path(checkpoint)
  if not is_bucket(checkpoint):
    return folder.is_dir()
  return any((folder / name).exists() for name in (MARK, *_OTHER_MARKS))


def remove(checkpoint: Path) -> None:
  """Removes a checkpoint or what is left of one; its marks go first."""
  folder = epath.Path(checkpoint)
  if is_bucket(checkpoint):
    for name in (MARK, *_OTHER_MARKS):
      (folder / name).unlink(missing_ok=True)
  folder.rmtree(missing_ok=True)


def files(folder: Path) -> list[str]:
  """Returns the names of all files in a folder and those below it, in order.

  They are relative to the folder, with slashes.
  """
  if not is_bucket(folder):
    place = pathlib.Path(folder)
    return sorted(
      x.relative_to(place).as_posix()
      for x in place.rglob("*")
      if not x.is_dir()
    )
  start = f"{os.fspath(folder)}/".partition("://")[2]
  return sorted(
    x.removeprefix(start)
    for x in file_system(folder).find(os.fspath(folder))
    if x.startswith(start)
  )


def rename(path: Path, new: Path) -> None:
  """Gives a file or a checkpoint another name, which must be free.

  In a bucket it is copied, its marks last, and then removed: cut off, the new
  one does not count, or the old one is there too.
  """
  old, new = epath.Path(path), epath.Path(new)
  if not is_bucket(old):
    old.rename(new)
    return
  system = file_system(old)
  names = files(old)
  if not names:
    system.cp_file(str(old), str(new))
    old.unlink()
    return
  # False comes before True.
  for name in sorted(names, key=lambda x: (x == MARK, x in _OTHER_MARKS)):
    system.cp_file(str(old / name), str(new / name))
  remove(old)


def append(path: Path, text: str) -> None:
  """Adds text to the end of a file, which need not be there."""
  if not is_bucket(path):
    with open(path, "a", encoding="utf-8") as file:
      file.write(text)
    return
  file = epath.Path(path)
  file.write_text((file.read_text() if file.exists() else "") + text)


class GrowingFile:
  """A file that grows chunk by chunk; each is there when `write` returns.

  An object is written anew each time.
  """

  def __init__(self, path: Path, size: int):
    """Opens a file behind its first `size` bytes; what followed is gone."""
    self._path = path
    self._file: BinaryIO | None = None
    if is_bucket(path):
      self._content = epath.Path(path).read_bytes()[:size] if size else b""
      self.size = size
      return
    if size == 0 and os.path.lexists(path):
      # It may be anything, such as a link.
      os.unlink(path)
    self._file = open(path, "r+b" if size else "xb")  # noqa: SIM115
    self._file.truncate(size)
    self._file.seek(size)
    self.size = size

  def write(self, content: bytes) -> None:
    """Adds a chunk."""
    self.size += len(content)
    if self._file is None:
      self._content += content
      epath.Path(self._path).write_bytes(self._content)
      return
    self._file.write(content)
    self._file.flush()

  def close(self, is_whole: bool = False) -> None:
    """Closes the file, and has it on disk if it is whole."""
    if self._file is None:
      if is_whole and not self.size:
        epath.Path(self._path).write_bytes(b"")
      return
    if is_whole:
      os.fsync(self._file.fileno())
    self._file.close()


class Outbox:
  """Where seqio writes, which knows this machine and TensorFlow's buckets.

  On a disk that is the folder itself.

  Attributes:
    path: The folder to write to.
  """

  def __init__(self, folder: str):
    """Makes it, and the folder."""
    self._folder = epath.Path(folder)
    self._folder.mkdir(parents=True, exist_ok=True)
    self._is_apart = is_bucket(folder)
    self.path = tempfile.mkdtemp() if self._is_apart else folder

  def send(self) -> None:
    """Moves what was written to the folder; lines of metrics are added.

    Files of TensorBoard, which are still written to, are copied.
    """
    if not self._is_apart:
      return
    here = pathlib.Path(self.path)
    for file in sorted(x for x in here.rglob("*") if x.is_file()):
      there = self._folder / file.relative_to(here).as_posix()
      there.parent.mkdir(parents=True, exist_ok=True)
      if file.name.endswith("-metrics.jsonl"):
        append(there, file.read_text(encoding="utf-8"))
      else:
        there.write_bytes(file.read_bytes())
      # TensorBoard's writer goes on with its file.
      if ".tfevents." not in file.name:
        file.unlink()

  def close(self) -> None:
    """Removes it, if it is not the folder."""
    if self._is_apart:
      shutil.rmtree(self.path, ignore_errors=True)


@contextlib.contextmanager
def explained(path: Path, name: str, verb: str) -> Iterator[None]:
  """Turns what goes wrong at a bucket's door into one clear error.

  Args:
    path: What was asked for.
    name: What to call it: a macro, or the path itself.
    verb: "read", or "write to".

  Raises:
    ValueError: if there is no such bucket, or no permission.
  """
  try:
    yield
  except (OSError, RuntimeError) as error:
    if not is_bucket(path):
      raise
    bucket = "/".join(os.fspath(path).split("/")[:3])
    text = str(error)
    if isinstance(error, FileNotFoundError):
      why = f"there is no bucket {bucket}. Make it, or choose another"
    elif any(x in text for x in ("Forbidden", "Anonymous", "401", "403")):
      why = (
        f"this account may not {verb} {bucket}. Give it the role Storage "
        "Object User, or log in: gcloud auth application-default login"
      )
    else:
      why = text
    raise ValueError(f"{name}: {why}.") from error


def check_readable(path: Path) -> None:
  """Checks that a folder that seems not to be there is not merely forbidden.

  Raises:
    ValueError: if it is.
  """
  if is_bucket(path) and HAS_GCS:
    # `is_dir` says no to whatever it was refused.
    with (
      explained(path, os.fspath(path), "read"),
      contextlib.suppress(FileNotFoundError),
    ):
      file_system(path).ls(os.fspath(path))


def check_writable(path: Path, name: str) -> None:
  """Checks that a folder of a bucket can be written.

  Args:
    path: The folder.
    name: The macro that names it, for messages.

  Raises:
    ValueError: if it cannot.
  """
  probe = f"{os.fspath(path).rstrip('/')}/.probe-{os.urandom(8).hex()}"
  with explained(path, f"{name}={os.fspath(path)!r}", "write to"):
    system = file_system(path)
    system.pipe_file(probe, b"")
    system.rm_file(probe)
