"""Names of parameters in other software: the tables of a TOML file."""

import pathlib
import re
import tomllib
from typing import Any

from flax import traverse_util

from prompt_tuning.models.layers import Config

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
  """Returns the name of a parameter in a state dict of Hugging Face's.

  Args:
    name: Ours, such as "encoder/layers_0/attention/query/kernel". The name of a
      scale of int8 weights is that of their matrix with the same suffix.
    config: The model's configuration.
  """
  matrix = name.removesuffix("_scale")
  *module, leaf = matrix.split("/")
  tables = [type(config).__name__]
  if tables == ["DecoderConfig"] and config.has_post_norms:
    tables.append("post_norms")
  suffix = "bias" if leaf == "bias" else "weight"
  theirs = translated(".".join(module), *tables)
  return f"{theirs}.{suffix}{name.removeprefix(matrix)}"
