"""Seven ways to damage a file, and five to break a zip file."""

from collections.abc import Callable
import pathlib
import zipfile


def _flip(path: pathlib.Path) -> None:
  data = bytearray(path.read_bytes())
  data[len(data) // 2] ^= 0x10
  path.write_bytes(data)


DAMAGES: dict[str, Callable[[pathlib.Path], object]] = {
  "a bit flipped": _flip,
  "cut off": lambda path: path.write_bytes(
    path.read_bytes()[: path.stat().st_size // 2]
  ),
  "emptied": lambda path: path.write_bytes(b""),
  "deleted": lambda path: path.unlink(),
  "zeroed in part": lambda path: path.write_bytes(
    (data := path.read_bytes())[: len(data) // 2].ljust(len(data), b"\0")
  ),
  "appended to": lambda path: path.write_bytes(path.read_bytes() + b"}\n"),
  # The replacement has the same bytes in another order.
  "replaced": lambda path: path.write_bytes(path.read_bytes()[::-1]),
}


def write_broken_zip(path: pathlib.Path, member: str, kind: str) -> None:
  """Writes a zip file whose member cannot be extracted."""
  with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
    archive.writestr(member, "{}" * 99)
  content = bytearray(path.read_bytes())
  entry = content.index(b"PK\1\2")  # The start of the table of contents.
  data = 30 + len(member)
  if kind == "data":
    content[data : data + 4] = b"\xff" * 4
  elif kind == "compression":
    content[8] = content[entry + 10] = 99
  elif kind == "password":
    content[6] |= 1
    content[entry + 8] |= 1
  elif kind == "size":
    content[entry + 24 : entry + 28] = (2**31).to_bytes(4, "little")
  path.write_bytes(b"no zip" if kind == "no zip" else content)
