"""The package's folders, and the writer of prompts and vocabularies.

It imports nothing that takes long.
"""

import os
import pathlib
import secrets


def project_folder() -> pathlib.Path:
  """Returns the default folder of checkpoints, sheets and runs.

  It is the repository, or for an installed package, the working directory.
  """
  package = pathlib.Path(__file__).parent
  return (
    pathlib.Path.cwd() if (package / "_installed").is_dir() else package.parent
  )


def gin_search_path() -> str:
  """Returns the folder that contains `gin/`, installed or in a checkout."""
  package = pathlib.Path(__file__).parent
  installed = package / "_installed"
  return str(installed if installed.is_dir() else package.parent)


def write(path: str | os.PathLike[str], content: bytes) -> None:
  """Replaces a file whole, or leaves it as it was.

  Args:
    path: The file. A link is replaced, not followed. An object of a bucket
      appears whole as it is.
    content: The new content.

  Raises:
    OSError: if it cannot be written; it names the file, and nothing new stays.
  """
  if "://" in os.fspath(path):
    from etils import epath

    epath.Path(path).write_bytes(content)
    return
  target = pathlib.Path(path)
  # Nobody can have laid a link at an unpredictable name.
  temporary = target.with_name(f".{target.name}.{secrets.token_hex(6)}.tmp")
  try:
    with open(temporary, "xb") as file:
      file.write(content)
      file.flush()
      os.fsync(file.fileno())
    os.replace(temporary, path)
  except OSError as error:
    # That of a full disk names no file.
    raise OSError(error.errno, error.strerror, str(path)) from error
  finally:
    temporary.unlink(missing_ok=True)
