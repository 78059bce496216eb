"""Storage of runs, on a disk or in a bucket (`gs://`).

On a disk, a folder can be renamed at once, and a file can grow. A bucket has
only objects, which appear whole or not at all but cannot grow; a folder is just
a common prefix of the names of objects. So a checkpoint in a bucket is whole if
it has Orbax's `MARK`, which is written last and deleted first, and renaming
means copying.
"""

import contextlib
import errno
import importlib.util
import os
import pathlib
import shutil
import tempfile

from etils import epath
import fsspec

from t5x.files import failures

# Orbax's mark of a whole checkpoint in a bucket.
MARK = "commit_success.txt"
# The marks of other checkpoints: ours copied from a disk, and T5X's format 3.
_OTHER_MARKS = ("digests.json", "checkpoint")
Path = str | os.PathLike[str]

# Without the extra `gcs`, epath can still read buckets, through TensorFlow.
HAS_GCS = importlib.util.find_spec("gcsfs") is not None
if HAS_GCS:
  for _protocol in ("gs", "gcs"):
    fsspec.register_implementation(
      _protocol, "t5x.files.gcs_file_system.FileSystem", clobber=True
    )


def is_bucket(path: Path) -> bool:
  """Returns whether a path is in a bucket."""
  return "://" in os.fspath(path)


def absolute(path: Path) -> epath.Path:
  """Returns a path that does not depend on the working directory."""
  path = os.fspath(path)
  return epath.Path(path if is_bucket(path) else os.path.abspath(path))


def file_system(path: Path) -> fsspec.AbstractFileSystem:
  """Returns the file system of a bucket, which can do more than `epath`.

  Raises:
    ValueError: if it is not in Cloud Storage, or the extra `gcs` is missing.
  """
  protocol = os.fspath(path).partition("://")[0]
  if protocol != "gs":
    raise ValueError(
      f"{path}: runs can be on a disk or at gs://, not at {protocol}://."
    )
  if not HAS_GCS:
    raise ValueError(
      f"{path}: writing to a bucket needs pip install 'prompt-tuning[gcs]'."
    )
  return fsspec.filesystem("gcs", finalize_on_close=True)


def is_whole(checkpoint: Path) -> bool:
  """Returns whether a folder `checkpoint_<step>` was written completely."""
  folder = epath.Path(checkpoint)
  if not is_bucket(checkpoint):
    return folder.is_dir()
  return any((folder / name).exists() for name in (MARK, *_OTHER_MARKS))


def remove(checkpoint: Path) -> None:
  """Removes a whole or partial checkpoint; its marks go first."""
  folder = epath.Path(checkpoint)
  if is_bucket(checkpoint):
    for name in (MARK, *_OTHER_MARKS):
      (folder / name).unlink(missing_ok=True)
  folder.rmtree(missing_ok=True)


def files(folder: Path) -> list[str]:
  """Returns the names of all files in a folder and its subfolders, in order.

  Names are relative to the folder, with slashes.
  """
  if is_bucket(folder):
    system, root = fsspec.url_to_fs(os.fspath(folder))
  else:  # In a local path, fsspec would take "::" for a chain of systems.
    system, root = fsspec.filesystem("file"), os.path.abspath(folder)
  start = f"{root}/"
  return sorted(
    x.removeprefix(start) for x in system.find(root) if x.startswith(start)
  )


def rename(path: Path, new: Path) -> None:
  """Renames a file or a checkpoint; the new name must be free.

  In a bucket it is copied, with its marks last, and then removed. After an
  interruption, the copy does not count yet, or both exist.
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
  # False sorts before True.
  for name in sorted(names, key=lambda x: (x == MARK, x in _OTHER_MARKS)):
    system.cp_file(str(old / name), str(new / name))
  remove(old)


def append(path: Path, text: str) -> None:
  """Appends text to a file, which need not exist."""
  if not is_bucket(path):
    # One write: a signal between two writes would leave half a line.
    with failures.explained(path), open(path, "ab", buffering=0) as file:
      file.write(text.encode())
    return
  file = epath.Path(path)
  file.write_text((file.read_text() if file.exists() else "") + text)


class UploadFolder:
  """A folder on this machine for writers that cannot write to a bucket.

  For a folder on a disk, it is the folder itself.

  Attributes:
    path: The folder to write to.
  """

  def __init__(self, folder: str):
    """Creates both folders."""
    self._folder = epath.Path(folder)
    self._folder.mkdir(parents=True, exist_ok=True)
    self._is_apart = is_bucket(folder)
    self.path = tempfile.mkdtemp() if self._is_apart else folder

  def send(self) -> None:
    """Moves the files to the bucket; lines of metrics are appended there.

    TensorBoard's files are only copied, because their writer keeps them open.
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
      if ".tfevents." not in file.name:
        file.unlink()

  def close(self) -> None:
    """Removes the folder if it is temporary."""
    if self._is_apart:
      shutil.rmtree(self.path, ignore_errors=True)


def check_access(path: Path, name: str, verb: str) -> None:
  """Checks that a folder in a bucket can be read or written.

  Args:
    path: The folder.
    name: Its name in the message: a macro, or the path itself.
    verb: "read", or "write to".

  Raises:
    ValueError: if the bucket does not exist, or permission is missing.
  """
  system = file_system(path)
  bucket = "/".join(os.fspath(path).split("/")[:3])
  try:
    if verb == "read":
      # `is_dir` is false for a forbidden folder.
      with contextlib.suppress(FileNotFoundError):
        system.ls(os.fspath(path))
    else:
      probe = f"{os.fspath(path).rstrip('/')}/.probe-{os.urandom(8).hex()}"
      system.pipe_file(probe, b"")
      system.rm_file(probe)
  except FileNotFoundError as error:
    raise ValueError(
      f"{name}: there is no bucket {bucket}. Create it, or choose another."
    ) from error
  except failures.StoreError as error:
    if error.errno != errno.EACCES:
      raise ValueError(f"{name}: {error}") from error
    raise ValueError(
      f"{name}: this account may not {verb} {bucket}. {error.remedy}."
    ) from error
