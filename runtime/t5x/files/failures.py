"""Failures of a disk or a bucket: the place, the reason and the remedy.

The system, gcsfs, TensorStore and TensorFlow each report them in their own way.
"""

from collections.abc import Iterator
import contextlib
import errno
import os
import re

_ON_DISK = {
  ("ENOSPC", "EDQUOT"): "Free some space there, or choose another folder",
  ("EFBIG",): "Allow larger files (ulimit -f), or choose another folder",
  ("EACCES", "EPERM", "EROFS"): (
    "Allow this account to write there, or choose another folder"
  ),
  ("EIO", "ESTALE", "ENODEV", "ENXIO", "ETIMEDOUT"): (
    "Its disk or network folder fails: see the system's log"
  ),
}
# Errors that callers handle separately.
_PLAIN = (FileNotFoundError, FileExistsError, NotADirectoryError)
_STATUS = re.compile(r"HTTP response code: (\d+)")
_REFUSED = ("Forbidden", "PERMISSION_DENIED", "UNAUTHENTICATED")


class StoreError(OSError):
  """An error: a file, folder or object could not be read or written.

  Attributes:
    remedy: What a user can do about it.
  """

  def __init__(self, number: int, path: str, reason: str, remedy: str):
    """Makes the error; its text is one line."""
    super().__init__(number, " ".join(reason.split()), path)
    self.remedy = f"{remedy}; the same command resumes the run"

  def __str__(self) -> str:
    return f"{self.filename}: {self.strerror}. {self.remedy}."


def explain(
  error: BaseException, path: str | os.PathLike[str]
) -> StoreError | None:
  """Returns the failure of a store that an error reports, or None.

  Args:
    error: An error of any library.
    path: The file, folder or object that was read or written.
  """
  if isinstance(error, (StoreError, *_PLAIN)):
    return None
  text, place = str(error), os.fspath(path)
  number = getattr(error, "errno", None)
  for names, remedy in _ON_DISK.items():
    for known in (getattr(errno, name) for name in names):
      # Errors of TensorStore and TensorFlow quote the system's error.
      if number == known or (number is None and os.strerror(known) in text):
        return StoreError(known, place, os.strerror(known), remedy)
  match = _STATUS.search(text)
  told = str(match[1] if match else getattr(error, "code", None))
  status = int(told) if told.isdigit() else 0
  if status in (401, 403) or text.startswith(_REFUSED):
    return StoreError(
      errno.EACCES,
      place,
      f"this account may not read or write it ({text[:300].rstrip()})",
      "Give it the role Storage Object User, or log in: gcloud auth "
      "application-default login",
    )
  if status == 429 or status >= 500:
    return from_server(place, f"answers with status {status}")
  return None


def from_server(path: str, problem: str) -> StoreError:
  """Returns the failure of a bucket's server with a problem."""
  reason = f"the server of the bucket {problem}"
  return StoreError(errno.EAGAIN, path, reason, "Try again later")


@contextlib.contextmanager
def explained(path: str | os.PathLike[str]) -> Iterator[None]:
  """Turns the failures of a store inside the `with` into `StoreError`."""
  try:
    yield
  except Exception as error:
    if (failure := explain(error, path)) is None:
      raise
    raise failure from error
