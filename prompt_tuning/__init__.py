"""Prompt tuning of frozen T5 models: Lester et al. (2021), in JAX.

import prompt_tuning as pt

model = pt.load("checkpoints/t5_small")
prompt = model.tune([("a fine film", "good"), ("a dull film", "bad"), ...])
model.generate(["a dull film"], prompt=prompt)
"""

import importlib
import os
from typing import TYPE_CHECKING, Any

from prompt_tuning.project_files import gin_search_path, project_folder

if TYPE_CHECKING:
  from prompt_tuning.inference.requests import TunedPrompt
  from prompt_tuning.training.model import Model, load

# As `t5x` does, for programs that import JAX before they first use the names
# below.
os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")

__version__ = "0.1.0"
__all__ = ["Model", "TunedPrompt", "gin_search_path", "load", "project_folder"]

# Imported on first use: they need the trainer, JAX and TensorFlow, which take
# seconds to import.
_LAZY = {
  "Model": "prompt_tuning.training.model",
  "TunedPrompt": "prompt_tuning.inference.requests",
  "load": "prompt_tuning.training.model",
}


def __dir__() -> list[str]:
  return [*__all__, "__version__"]


def __getattr__(name: str) -> Any:
  if name not in _LAZY:
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
  # First, because it silences TensorFlow and keeps it off accelerators.
  importlib.import_module("t5x")
  return getattr(importlib.import_module(_LAZY[name]), name)
