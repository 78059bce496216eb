"""PyTorch's files of weights, such as `pytorch_model.bin`, without PyTorch.

Such a file is a zip archive. A pickle in it names the functions that make
tensors from the numbers in the other members, and Python's own reader would
call any function. This one knows the instructions that `torch.save` writes,
makes descriptions of tensors, and calls nothing.
"""

from collections.abc import Sequence
import functools
import pathlib
import pickletools
import struct
from typing import Any, NamedTuple
import zipfile

import ml_dtypes
import numpy as np

from t5x.files import parsing
from t5x.formats import stored_arrays
from t5x.formats.stored_arrays import StoredArray

WEIGHTS = "pytorch_model.bin"
_REMEDY = (
  "Load it with transformers or PEFT: save_pretrained(...) writes safetensors."
)
_DTYPES = {
  "torch FloatStorage": np.dtype(np.float32),
  "torch HalfStorage": np.dtype(np.float16),
  "torch BFloat16Storage": np.dtype(ml_dtypes.bfloat16),
}
# Instructions that put their argument on the stack, or a new object.
_ARGUMENTS = ("BININT", "BININT1", "BININT2", "LONG1", "BINUNICODE", "GLOBAL")
_NEW = {
  **{"EMPTY_DICT": dict, "EMPTY_LIST": list, "EMPTY_TUPLE": tuple},
  **{"NONE": type(None), "NEWFALSE": bool, "NEWTRUE": lambda: True},
}
# The length of a member's header in a zip archive, without name and more.
_HEADER = 30


class _Storage(NamedTuple):
  """The numbers of one or more tensors, in a member of the archive."""

  dtype: np.dtype
  member: str
  size: int


class _Tensor(NamedTuple):
  """A tensor as a view of a storage; strides are in numbers."""

  storage: _Storage
  offset: int
  shape: tuple[int, ...]
  strides: tuple[int, ...]


def find(files: Sequence[pathlib.Path]) -> dict[str, StoredArray]:
  """Finds the tensors in several files.

  Raises:
    ValueError: if a file is not an archive of `torch.save`, or contains
      anything except tensors of floats.
  """
  found = {}
  for file in files:
    with (
      parsing.of(file, "an archive of weights by torch.save", _REMEDY),
      zipfile.ZipFile(file) as archive,
    ):
      stored = (x.compress_type for x in archive.infolist())
      _check({*stored} == {zipfile.ZIP_STORED}, "compression")
      (index,) = (x for x in archive.namelist() if x.endswith("/data.pkl"))
      folder = index.removesuffix("data.pkl")
      if f"{folder}byteorder" in archive.namelist():
        _check(archive.read(f"{folder}byteorder") == b"little", "byte order")
      for name, tensor in _read_pickle(archive.read(index)).items():
        _check(isinstance(tensor, _Tensor), f"{name}, which is not a tensor")
        found[name] = _stored(file, archive, folder, tensor)
  return found


def _check(is_well: bool, what: str) -> None:
  if not is_well:
    raise ValueError(f"it has an unexpected {what}")


def _read_pickle(content: bytes) -> dict[str, Any]:
  """Returns the dictionary that a pickle makes, with `_Tensor`s in it."""
  stack: list[Any] = []
  marks: list[int] = []
  memo: dict[Any, Any] = {}

  def taken(number: int) -> list[Any]:
    items = stack[len(stack) - number :]
    del stack[len(stack) - number :]
    return items

  for opcode, argument, _ in pickletools.genops(content):
    match name := opcode.name:
      case "PROTO":
        pass
      case "STOP":
        break
      case "MARK":
        marks.append(len(stack))
      case "BINPUT" | "LONG_BINPUT":
        memo[argument] = stack[-1]
      case "BINGET" | "LONG_BINGET":
        stack.append(memo[argument])
      case "TUPLE":
        stack.append(tuple(taken(len(stack) - marks.pop())))
      case "TUPLE1" | "TUPLE2" | "TUPLE3":
        stack.append(tuple(taken(int(name[-1]))))
      case "SETITEM" | "SETITEMS":
        number = 2 if name == "SETITEM" else len(stack) - marks.pop()
        items = taken(number)
        stack[-1].update(zip(items[::2], items[1::2], strict=True))
      case "BINPERSID":
        _, dtype, member, _, size = stack.pop()
        _check(dtype in _DTYPES, f"type {dtype}")
        stack.append(_Storage(_DTYPES[dtype], f"data/{member}", size))
      case "REDUCE":
        stack.append(_described(*taken(2)))
      case "BUILD":  # Versions of modules, as an attribute of the dictionary.
        stack.pop()
      case _ if name in _NEW:
        stack.append(_NEW[name]())
      case _ if name in _ARGUMENTS:
        stack.append(argument)
      case _:
        raise ValueError(f"it has an unexpected instruction {name}")
  return dict(stack.pop())


def _described(function: str, arguments: Sequence[Any]) -> Any:
  """Returns the result of a call, for the functions that `torch.save` names.

  Raises:
    ValueError: if it is another function.
  """
  match function:
    case "collections OrderedDict":
      return dict(*arguments)
    case "torch._utils _rebuild_parameter":
      return arguments[0]
    case "torch._utils _rebuild_tensor_v2":
      return _Tensor(*arguments[:4])
  raise ValueError(f"it calls {function}, and weights are tensors alone")


def _stored(
  file: pathlib.Path, archive: zipfile.ZipFile, folder: str, tensor: _Tensor
) -> StoredArray:
  """Returns a tensor that is read from the file when it is asked for."""
  storage, offset, shape, strides = tensor
  member = archive.getinfo(folder + storage.member)
  numbers = [offset, storage.size, *shape, *strides]
  _check(all(type(x) is int and x >= 0 for x in numbers), f"size in {numbers}")
  last = offset + sum((x - 1) * y for x, y in zip(shape, strides, strict=True))
  with file.open("rb") as content:
    content.seek(member.header_offset)
    *_, name, more = struct.unpack("<26s2H", content.read(_HEADER))
  start = member.header_offset + _HEADER + name + more
  size = storage.size * storage.dtype.itemsize
  room = min(member.file_size, file.stat().st_size - start)
  _check(
    last < storage.size and size <= room,
    f"number of {storage.size} values for the shape {shape}",
  )
  opener = functools.partial(_open, file, start, tensor)
  return StoredArray(shape, storage.dtype, opener)


def _open(
  file: pathlib.Path, start: int, tensor: _Tensor
) -> stored_arrays.Reader:
  """Returns a reader of a tensor, whose pages leave the memory with it."""
  dtype, _, size = tensor.storage
  values = np.memmap(file, dtype, "r", start, (size,))
  view = np.lib.stride_tricks.as_strided(
    values[tensor.offset :],
    tensor.shape,
    [x * dtype.itemsize for x in tensor.strides],
    writeable=False,
  )
  return lambda index: np.array(view[index])
