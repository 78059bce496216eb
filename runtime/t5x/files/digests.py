"""SHA-256 digests of a folder's files, kept in it as `digests.json`."""

from collections.abc import Collection
from concurrent import futures
import hashlib
import json
import os
import posixpath
from typing import Any

from etils import epath

from t5x.files import failures, parsing, safe_files, storage

NAME = "digests.json"
_KEY = "sha256"
# Files to read at the same time; hashing releases the GIL.
_READERS = 8


def write(
  folder: str | os.PathLike[str], leave_out: Collection[str] = ()
) -> None:
  """Writes the digests of all files in a folder and its subfolders.

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
    values = pool.map(lambda name: _sha256(folder / name), names)
    found = dict(zip(names, values, strict=True))
  safe_files.write(folder / NAME, json.dumps({_KEY: found}, indent=1) + "\n")


def _sha256(path: epath.Path) -> str:
  file: Any
  with path.open("rb") as file:
    return hashlib.file_digest(file, "sha256").hexdigest()


def damage(folder: str | os.PathLike[str]) -> str | None:
  """Compares a folder with its digests.

  Args:
    folder: The folder. Files without a digest are not checked.

  Returns:
    A description of the damage, or None.
  """
  folder = epath.Path(folder)
  try:
    what, keys = "a list of digests", {_KEY: dict[str, str]}
    expected = parsing.json_file(folder / NAME, what, keys)[_KEY]
  except FileNotFoundError:
    return f"it has no {NAME}"
  except (OSError, ValueError) as error:
    return str(error)
  for name in expected:
    # A device file, for instance, has no end.
    if posixpath.isabs(name) or ".." in name.split("/"):
      return f"{NAME} names {name!r}, which is outside"

  def problem(name: str) -> str | None:
    # A file without read permission is not damaged.
    try:
      if _sha256(folder / name) == expected[name]:
        return None
      return f"the content of {name} has changed since it was written"
    except FileNotFoundError:
      return f"{name} is missing"
    except (PermissionError, failures.StoreError) as error:
      raise failures.explain(error, folder / name) or error from error
    except (OSError, ValueError) as error:  # Names may have a null byte.
      return f"{name} cannot be read: {error}"

  with futures.ThreadPoolExecutor(_READERS) as pool:
    problems = [x for x in pool.map(problem, expected) if x is not None]
  if not problems:
    return None
  more = f", and {len(problems) - 1} more" if len(problems) > 1 else ""
  return f"{problems[0]}{more}"
