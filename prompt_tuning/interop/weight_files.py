"""The weight files of a folder, in one of Hugging Face's two formats."""

import pathlib

from prompt_tuning.interop import safetensors_files, torch_files
from t5x.files import parsing
from t5x.formats.stored_arrays import StoredArray

# The end of the name of the file that lists the files of split weights.
INDEX = ".index.json"
_READERS = {
  safetensors_files.WEIGHTS: safetensors_files.find,
  torch_files.WEIGHTS: torch_files.find,
}


def find(folder: pathlib.Path) -> dict[str, StoredArray]:
  """Finds the tensors in a folder's files; PyTorch files are the last resort.

  Raises:
    ValueError: if there are no weights, or they are incomplete or damaged.
  """
  for weights, read in _READERS.items():
    if files := _files(folder, weights):
      return read(files)
  raise ValueError(
    f"Expected {' or '.join(_READERS)} in {folder}, or the index of several "
    "such files, got neither."
  )


def _files(folder: pathlib.Path, weights: str) -> list[pathlib.Path]:
  """Finds files of weights: one, or those that an index beside them names.

  Returns:
    The files; none if there is neither.
  """
  file, listed = folder / weights, folder / f"{weights}{INDEX}"
  if not listed.is_file():
    return [file] if file.is_file() else []
  what = "an index of files beside it"
  index = parsing.json_file(listed, what, {"weight_map": dict[str, str]})
  names = set(index["weight_map"].values())
  if bad := [
    name
    for name in names
    if name == ".." or pathlib.PurePath(name).name != name
  ]:
    raise ValueError(f"{listed} is not {what}: it names {bad[0]!r}.")
  files = [folder / name for name in sorted(names)]
  if missing := [file.name for file in files if not file.is_file()]:
    raise ValueError(
      f"{folder} is not complete: {listed.name} names {', '.join(missing)}."
    )
  return files
