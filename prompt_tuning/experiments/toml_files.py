"""TOML files that a pydantic model describes, and the files they extend."""

from collections.abc import Mapping
import pathlib
import tomllib
from typing import Any, TypeVar

import pydantic
import tomlkit

_Model = TypeVar("_Model", bound=pydantic.BaseModel)


class Strict(pydantic.BaseModel, extra="forbid"):
  """A model that refuses unknown names."""


def parse(path: pathlib.Path, kind: type[_Model], **fields: Any) -> _Model:
  """Reads a TOML file as what `kind` describes.

  Args:
    path: The file. `extends` in it names another, from its folder, whose
      content lies below its own.
    kind: A pydantic model.
    **fields: Fields that the file must not set itself.

  Raises:
    ValueError: if it is wrong; the message says where.
  """
  content = _read(path)
  if known := content.keys() & fields.keys():
    raise ValueError(
      f"{path} is no sheet: {', '.join(sorted(known))} is not for it to say."
    )
  try:
    return kind.model_validate({**fields, **content})
  except pydantic.ValidationError as e:
    problems = "; ".join(
      f"{'.'.join(map(str, x['loc'])) or 'sheet'}: {x['msg']}"
      for x in e.errors()
    )
    raise ValueError(f"{path} is no sheet: {problems}.") from e


def dumps(fields: Mapping[str, Any]) -> str:
  """Writes fields as TOML; dictionaries of values and short lists in a line."""
  return tomlkit.dumps({key: _item(x) for key, x in fields.items()})


def _item(value: Any) -> Any:
  """Writes innermost dictionaries in a line, and texts as they read best."""
  if isinstance(value, dict):
    if not value or any(isinstance(x, dict | list) for x in value.values()):
      return {key: _item(x) for key, x in value.items()}
    return tomlkit.inline_table() | value
  if isinstance(value, str) and "\n" in value:
    return tomlkit.string(value, multiline=True)
  return value


def _read(
  path: pathlib.Path, over: tuple[pathlib.Path, ...] = ()
) -> dict[str, Any]:
  if path.resolve() in over:
    raise ValueError(f"{path} extends itself.")
  try:
    content = tomllib.loads(path.read_text(encoding="utf-8"))
  except OSError as e:
    raise ValueError(f"{path} cannot be read: {e.strerror}.") from e
  except tomllib.TOMLDecodeError as e:
    raise ValueError(f"{path} is no TOML: {e}.") from e
  shared = content.pop("extends", None)
  if shared is None:
    return content
  base = _read(path.parent / shared, (*over, path.resolve()))
  return _merged(base, content)


def _merged(base: dict[str, Any], over: dict[str, Any]) -> dict[str, Any]:
  """Puts `over` over `base`, table by table."""
  merged = dict(base)
  for key, value in over.items():
    if isinstance(value, dict) and isinstance(merged.get(key), dict):
      value = _merged(merged[key], value)
    merged[key] = value
  return merged
