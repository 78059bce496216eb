"""T5s with random parameters in Hugging Face's format."""

import dataclasses

import numpy as np

from prompt_tuning.interop import hugging_face, parameter_names
from prompt_tuning.models.t5.config import T5Config
from t5x.formats import stored_arrays

CONFIG = T5Config(32, 8, 2, 2, 1, head_dim=6, mlp_dim=20)
# A model like google-t5/t5-small.
FIRST = dataclasses.replace(
  CONFIG, mlp_activations=("relu",), logits_via_embedding=True
)


def params(config: T5Config, dtype=np.float32) -> dict[str, np.ndarray]:
  """Returns T5X's name -> random values."""
  rng = np.random.default_rng(0)
  return {
    name: rng.normal(size=shape).astype(dtype)
    for name, shape in parameter_names.shapes(config).items()
  }


def arrays(config: T5Config, dtype=np.float32) -> dict:
  """Returns T5X's name -> array, as a checkpoint stores it."""
  values = params(config, dtype)
  return {name: stored_arrays.in_memory(x) for name, x in values.items()}


def save(folder, config: T5Config):
  """Writes a model's folder and returns the folder."""
  hugging_face.write_folder(folder, arrays(config))
  return folder
