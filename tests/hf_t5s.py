"""T5s in Hugging Face's format, of random parameters."""

import numpy as np

from prompt_tuning.interop import hugging_face, parameter_names
from prompt_tuning.models.t5.config import T5Config
from t5x.formats import stored_arrays


def arrays(config: T5Config, dtype=np.float32) -> dict:
  """Returns T5X's name -> array, as a checkpoint stores it."""
  rng = np.random.default_rng(0)
  return {
    name: stored_arrays.in_memory(rng.normal(size=shape).astype(dtype))
    for name, shape in parameter_names.shapes(config).items()
  }


def save(folder, config: T5Config) -> None:
  """Writes the folder of a model."""
  hugging_face.write_folder(folder, arrays(config))
