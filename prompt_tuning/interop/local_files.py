"""Files and folders of other software, which must be on a disk."""

import hashlib
import os
import pathlib

from etils import epath


def local_path(path: epath.PathLike) -> pathlib.Path:
  """Returns the path, if it is on one of this machine's disks.

  Raises:
    ValueError: if it is in a bucket.
  """
  if "://" in os.fspath(path):
    raise ValueError(
      f"{os.fspath(path)}: this format is read and written on a disk only. "
      "Name a local path, and copy."
    )
  return pathlib.Path(path)


def check_sha256(file: pathlib.Path, expected: str, package: str) -> None:
  """Raises ValueError unless a file is that of the package "name==version"."""
  with file.open("rb") as content:
    found = hashlib.file_digest(content, "sha256").hexdigest()
  if found != expected:
    raise ValueError(
      f"{file}: expected sha256 {expected}, got {found}. Run:"
      f" pip install --force-reinstall --no-deps {package}"
    )


def check_new(folder: pathlib.Path) -> None:
  """Raises ValueError unless a folder is missing or empty."""
  if folder.is_file() or (folder.is_dir() and any(folder.iterdir())):
    raise ValueError(f"Expected a new folder, got {folder}, which has content.")
