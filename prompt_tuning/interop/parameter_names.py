"""Names of parameters here and in other software, and their shapes."""

from collections.abc import Mapping
import functools
import pathlib
import re
import tomllib
from typing import Any

from flax import traverse_util

from prompt_tuning.models import networks
from prompt_tuning.models.layers import Config
from prompt_tuning.models.network import parameter_shapes

_FILE = pathlib.Path(__file__).with_suffix(".toml")
# Table -> module -> theirs.
_NAMES: dict[str, Any] = {
  table: traverse_util.flatten_dict(names, sep=".")
  for table, names in tomllib.loads(_FILE.read_text()).items()
}
_LAYER = re.compile(r"(?<=\blayers_)\d+|(?<=\bblk\.)\d+")


def translated(module: str, *tables: str) -> str:
  """Returns Hugging Face's name of a module with parameters.

  Args:
    module: Such as "decoder.layers_0.mlp.wo".
    *tables: Tables of the file; one may replace names of those before it.

  Raises:
    KeyError: if the tables lack the module.
  """
  found = {k: x for table in tables for k, x in _NAMES[table].items()}
  theirs = found[_LAYER.sub("N", module)]
  layer = _LAYER.search(module)
  return theirs.replace(".N.", f".{layer[0]}.") if layer else theirs


def hugging_face_name(name: str, config: Config) -> str:
  """Returns the name of a parameter in a Hugging Face state dict.

  Args:
    name: Our name, such as "encoder/layers_0/attention/query/kernel". A scale
      of int8 weights is named as their matrix, with its own suffix.
    config: The model's configuration.
  """
  matrix = re.sub("(_column)?_scale$", "", name)
  *module, leaf = matrix.split("/")
  tables = [type(config).__name__]
  if tables == ["DecoderConfig"] and config.has_post_norms:
    tables.append("post_norms")
  suffix = "bias" if leaf == "bias" else "weight"
  theirs = translated(".".join(module), *tables)
  return f"{theirs}.{suffix}{name.removeprefix(matrix)}"


def is_transposed(name: str) -> bool:
  """Returns whether Hugging Face transposes the parameter with T5X's name."""
  return name.endswith(("/kernel", "/rel_embedding"))


@functools.lru_cache(maxsize=8)
def shapes(config: Config) -> Mapping[str, tuple[int, ...]]:
  """Returns T5X's name -> shape for every parameter of the network."""
  return parameter_shapes(networks.make(config))


def differences(
  expected: Mapping[str, tuple[int, ...]], got: Mapping[str, tuple[int, ...]]
) -> list[str]:
  """Lists the parameters that are missing, unexpected, or of another shape."""
  return [
    f"{name}: expected {expected.get(name)}, got {got.get(name)}"
    for name in sorted(expected.keys() | got.keys())
    if expected.get(name) != got.get(name)
  ]
