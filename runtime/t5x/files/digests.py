"""SHA-256 of a folder's files, kept in the folder as `digests.json`."""

from collections.abc import Collection
from concurrent import futures
import json
import os
from typing import Any

from etils import epath

from t5x.files import safe_files, storage

NAME = "digests.json"
_KEY = "sha256"
# Files that are read at the same time; hashing lets other threads run.
_READERS = 8


def write(
  folder: str | os.PathLike[str], leave_out: Collection[str] = ()
) -> None:
  """Writes the digests of the files in a folder and those below it.

  Args:
    folder: The folder.
    leave_out: Files and folders in it that are left out.
  """
  folder = epath.Path(folder)
  left_out = {NAME, *leave_out}
  names = [
    name
    for name in storage.files(folder)
    if name.partition("/")[0] not in left_out
  ]
  with futures.ThreadPoolExecutor(_READERS) as pool:
    values = pool.map(lambda name: safe_files.digest(folder / name), names)
    found = dict(zip(names, values, strict=True))
  safe_files.write(folder / NAME, json.dumps({_KEY: found}, indent=1) + "\n")


def are_in(folder: str | os.PathLike[str]) -> bool:
  """Whether a folder has digests."""
  file = epath.Path(folder) / NAME
  return os.path.islink(file) or file.exists()


def text(folder: str | os.PathLike[str]) -> str:
  """Returns the file of digests, whatever is in it."""
  return (epath.Path(folder) / NAME).read_bytes().decode(errors="replace")


def damage(folder: str | os.PathLike[str], part: str = "") -> str | None:
  """Compares a folder with its digests.

  Args:
    folder: The folder. A file that has no digest is not looked at.
    part: With what the names of the files begin that are looked at.

  Returns:
    What is wrong, in words, or None.
  """
  folder = epath.Path(folder)
  try:
    content: Any = json.loads((folder / NAME).read_text())
    expected = {
      str(name): str(value)
      for name, value in content[_KEY].items()
      if str(name).startswith(part)
    }
  except FileNotFoundError:
    return f"it has no {NAME}"
  except (OSError, ValueError, LookupError, TypeError, AttributeError) as error:
    return f"{NAME} cannot be read: {error!r}"

  def problem(name: str) -> str | None:
    try:
      if safe_files.digest(folder / name) == expected[name]:
        return None
      return f"the content of {name} is not what was written"
    except FileNotFoundError:
      return f"{name} is missing"
    except OSError as error:
      return f"{name} cannot be read: {error.strerror}"

  with futures.ThreadPoolExecutor(_READERS) as pool:
    problems = [x for x in pool.map(problem, expected) if x is not None]
  if not problems:
    return None
  more = f", and {len(problems) - 1} more" if len(problems) > 1 else ""
  return f"{problems[0]}{more}"
