"""Seven ways in which a file is damaged."""

from collections.abc import Callable
import pathlib


def _flip(path: pathlib.Path) -> None:
  data = bytearray(path.read_bytes())
  data[len(data) // 2] ^= 0x10
  path.write_bytes(data)


def _zero(path: pathlib.Path) -> None:
  data = path.read_bytes()
  half = len(data) // 2
  path.write_bytes(data[:half] + bytes(len(data) - half))


def _replace(path: pathlib.Path) -> None:
  """By another file of the same kind: its content in another order."""
  path.write_bytes(path.read_bytes()[::-1])


DAMAGES: dict[str, Callable[[pathlib.Path], object]] = {
  "a bit flipped": _flip,
  "cut off": lambda path: path.write_bytes(
    path.read_bytes()[: path.stat().st_size // 2]
  ),
  "emptied": lambda path: path.write_bytes(b""),
  "deleted": lambda path: path.unlink(),
  "zeroed in part": _zero,
  "appended to": lambda path: path.write_bytes(path.read_bytes() + b"}\n"),
  "replaced": _replace,
}
