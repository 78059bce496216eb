"""The package's folders, and safe reading and writing of files.

This module imports nothing that takes long.
"""

from collections.abc import Iterator
import contextlib
import errno
import os
import pathlib
import secrets


def project_folder() -> pathlib.Path:
  """Returns the default folder of checkpoints, sheets and runs.

  That is the repository or, for an installed package, the working directory.
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


@contextlib.contextmanager
def parsing(
  path: str | os.PathLike[str],
  what: str,
  remedy: str = "The file is damaged: get another copy.",
) -> Iterator[None]:
  """Turns whatever a parser raises into an error that names the file.

  It is like `t5x.files.parsing.of`, which says more, but works without the
  trainer.
  """
  name = os.fspath(path)
  try:
    yield
  except Exception as error:
    why = " ".join(str(error).split())
    is_named = isinstance(error, ValueError) and why.startswith(name)
    is_disk = isinstance(error, OSError) and error.errno != errno.EINVAL
    if is_named or (is_disk and (name in why or error.errno is None)):
      raise
    if is_disk:
      raise OSError(error.errno, error.strerror, name) from error
    if isinstance(error, UnicodeDecodeError):
      lines = error.object[: error.start].count(b"\n")
      place = f"line {lines + 1}, " * bool(lines)
      why = f"{place}the byte 0x{error.object[error.start]:02x} is not UTF-8"
    why = f"it lacks {why}" if isinstance(error, KeyError) else why
    why = why[:300].rstrip(".") or type(error).__name__
    raise ValueError(f"{name} is not {what}: {why}. {remedy}") from error


def write(path: str | os.PathLike[str], content: bytes) -> None:
  """Replaces a file whole, or leaves it as it was.

  Args:
    path: The file. A link is replaced, not followed. An object in a bucket
      appears whole in any case.
    content: The new content.

  Raises:
    OSError: if the file cannot be written. The error names it, and no partial
      file is left.
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
