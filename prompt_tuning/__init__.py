"""Prompt tuning of frozen T5 models: Lester et al. (2021), in JAX."""

import pathlib

__version__ = "0.1.0"


def gin_search_path() -> str:
  """Returns the folder below which `gin/` lies, installed or in a checkout."""
  package = pathlib.Path(__file__).parent
  installed = package / "_installed"
  return str(installed if installed.is_dir() else package.parent)
