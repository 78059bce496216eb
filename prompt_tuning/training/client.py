"""Facts about this package that the trainer asks for."""

from collections.abc import Callable
import os
import pathlib
import pkgutil
import tomllib
from typing import Any

from prompt_tuning import project_files
from prompt_tuning.data import task_names
from t5x.configuration.client import Client

_FILE = pathlib.Path(__file__).with_suffix(".toml")


def _lazy(name: str) -> Callable[..., Any]:
  """Returns a function of this package that is imported on its first call.

  Its module imports TensorFlow or other slow packages, which --help must not.

  Args:
    name: Such as "data.task_lookup:find".
  """
  return lambda *args: pkgutil.resolve_name(f"prompt_tuning.{name}")(*args)


def _open_model(path: str) -> Any:
  from prompt_tuning.interop import hub

  path = os.fspath(path)
  # Of a folder without config.json, Hugging Face's reader says so.
  names = ("config.json", "model.safetensors", "model.safetensors.index.json")
  is_folder = any(os.path.isfile(os.path.join(path, x)) for x in names)
  if not (is_folder or hub.is_name(path)):
    return None
  # It imports JAX.
  from prompt_tuning.interop import hugging_face

  return hugging_face.open_folder(path)


CLIENT = Client(
  gin_path=project_files.gin_search_path(),
  task_names=task_names.by_heading,
  find_task=_lazy("data.task_lookup:find"),
  open_model=_open_model,
  next_steps=_lazy("training.next_steps:describe"),
  problems=_lazy("training.headers:problems"),
  **tomllib.loads(_FILE.read_text()),
)
