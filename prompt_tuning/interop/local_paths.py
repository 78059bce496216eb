"""Paths of formats that lie on a disk."""

import os
import pathlib


def of(path: str | os.PathLike[str]) -> pathlib.Path:
  """Returns a path of this machine's disks.

  Args:
    path: As it was given.

  Raises:
    ValueError: if it is one of a bucket.
  """
  if "://" in os.fspath(path):
    raise ValueError(
      f"{os.fspath(path)}: this format is read and written on a disk only. "
      "Name a local path, and copy."
    )
  return pathlib.Path(path)
