"""A reader of bytes from outside, and functions that make one."""

from collections.abc import Callable
import dataclasses
import json
import pathlib
from typing import Any


@dataclasses.dataclass(frozen=True)
class Reader:
  """A reader of a file.

  Attributes:
    make: Writes good files into an empty folder; returns the name of the file
      to mutate, relative to the folder.
    read: Reads the file, given its path.
    called: The name that errors contain: by default the file's; "" if the
      caller adds the name.
    errors: Errors that the caller of this reader handles, besides ValueError
      and OSError.
    writes: Whether reading changes the folder.
  """

  make: Callable[[pathlib.Path], str]
  read: Callable[[pathlib.Path], Any]
  called: str | None = None
  errors: tuple[type[Exception], ...] = ()
  writes: bool = False


def lines(*rows: Any) -> str:
  return "".join(f"{json.dumps(row)}\n" for row in rows)


def made(
  write: Callable[[pathlib.Path], Any], pattern: str, read: Any, **more: Any
) -> Reader:
  """Returns a reader of the largest file in a folder that matches `pattern`."""

  def make(folder: pathlib.Path) -> str:
    write(folder)
    found = max(folder.glob(pattern), key=lambda path: path.stat().st_size)
    return str(found.relative_to(folder))

  return Reader(make, read, **more)


def file(name: str, content: str | bytes, read: Any, **more: Any) -> Reader:
  """Returns a reader whose `read` takes the path of a single file."""

  def make(folder: pathlib.Path) -> str:
    data = content.encode() if isinstance(content, str) else content
    (folder / name).parent.mkdir(parents=True, exist_ok=True)
    (folder / name).write_bytes(data)
    return name

  return Reader(make, read, **more)


def inside(name: str, content: str, read: Any, **more: Any) -> Reader:
  """Returns a reader whose `read` takes the folder of the file."""
  return file(name, content, lambda path: read(str(path.parent)), **more)


def text(content: str, read: Callable[[str], Any]) -> Reader:
  """Returns a reader of text that does not come from a file."""
  return file(
    "text",
    content,
    lambda path: read(path.read_bytes().decode("latin-1")),
    called="",
  )
