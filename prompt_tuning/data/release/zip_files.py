"""Zip archives from other people: damaged ones, or ones made to fill a disk."""

from collections.abc import Iterator
import contextlib
import os
from typing import IO
import zipfile

from prompt_tuning import project_files

# How much smaller than itself a text can be packed; zeros become a thousandth.
_MAX_RATIO = 100
_ALWAYS_ALLOWED = 2**20


@contextlib.contextmanager
def opened(
  archive: str | os.PathLike[str] | IO[bytes], where: str
) -> Iterator[zipfile.ZipFile]:
  """Opens an archive; errors inside the `with` mean that it is malformed.

  Args:
    archive: The archive, or its path.
    where: Its name, for messages.

  Raises:
    ValueError: if it is not a zip archive.
  """
  with (
    project_files.parsing(where, "a zip file", "Fetch it again."),
    zipfile.ZipFile(archive) as zipped,
  ):
    yield zipped


def member(
  zipped: zipfile.ZipFile, info: zipfile.ZipInfo, most: int, where: str
) -> IO[bytes]:
  """Opens a file of an archive, which unpacks to no more than its stated size.

  Args:
    zipped: The archive.
    info: The file in it.
    most: Its maximum size, unpacked, in bytes.
    where: The archive's name, for messages.

  Raises:
    ValueError: if it is larger, or neither stored nor deflated.
  """
  name, size = info.filename, info.file_size
  # Other methods unpack a file whole, whatever size the archive states.
  if info.compress_type not in (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED):
    raise ValueError(f"{where}: expected {name} stored or deflated.")
  most = min(most, max(_ALWAYS_ALLOWED, _MAX_RATIO * info.compress_size))
  if size > most:
    raise ValueError(
      f"{where}: expected {name} of at most {most} bytes, got {size}."
    )
  return zipped.open(info)
