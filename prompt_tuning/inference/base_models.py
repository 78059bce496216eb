"""Base checkpoints, which are read once, and the files that belong to them."""

from collections.abc import Mapping
import dataclasses
import re

from etils import epath
import jax
import jax.numpy as jnp
import numpy as np

from prompt_tuning import injections
from prompt_tuning.interop import sentencepiece_model
from prompt_tuning.models.config import TOKEN_EMBEDDING
from prompt_tuning.models.layers import TRANSPOSED, Config
from prompt_tuning.models.t5.config import T5Config
from t5x import checkpoints
from t5x.formats import int8, stored_arrays

_KERNEL = "/kernel"


@dataclasses.dataclass(frozen=True)
class CheckpointInMemory(checkpoints.BaseCheckpoint):
  """A checkpoint whose parameters have been read.

  Attributes:
    params: As `read_for_decoding` returns them.
  """

  params: Mapping[str, jax.Array] = dataclasses.field(default_factory=dict)

  def read(
    self, targets: Mapping[str, jax.ShapeDtypeStruct]
  ) -> dict[str, jax.Array]:
    """Returns parameters, copying only arrays whose dtype or place differs.

    Kernels that lie [out, in] are copied.
    """

    def read(name: str, target: jax.ShapeDtypeStruct) -> jax.Array:
      array = self.params.get(name)
      if array is None:
        array = self.params[_transposed(name)].T
      return jax.device_put(array.astype(target.dtype), target.sharding)

    return {name: read(name, target) for name, target in targets.items()}


def read_for_decoding(
  base: checkpoints.BaseCheckpoint,
  targets: Mapping[str, jax.ShapeDtypeStruct],
) -> dict[str, jax.Array]:
  """Reads the parameters of a checkpoint as `inference` wants them.

  Args:
    base: The checkpoint.
    targets: Name -> shape, dtype and sharding.

  Returns:
    Name -> array. On a CPU, kernels of bfloat16 lie [out, in] and have the name
    `layers.TRANSPOSED`.
  """
  arrays = base.read(targets)
  if jax.default_backend() != "cpu":
    return arrays
  for name in list(arrays):
    array = arrays[name]
    is_kernel = name.endswith(_KERNEL) and array.ndim == 2
    if is_kernel and array.dtype == jnp.bfloat16:
      arrays[_transposed(name)] = arrays.pop(name).T
  return arrays


def _transposed(name: str) -> str:
  return f"{name.removesuffix(_KERNEL)}/{TRANSPOSED}"


def is_of_ladder(base: checkpoints.BaseCheckpoint) -> bool:
  """Returns whether a checkpoint is one of the miniatures."""
  return str(base.metadata.get("name") or "").startswith("ladder_")


def is_byt5(config: Config) -> bool:
  """Returns whether the sizes are a ByT5's; the ladder has as many rows."""
  return (
    isinstance(config, T5Config)
    and config.vocab_size == 384
    and config.num_encoder_layers == 3 * config.num_decoder_layers
  )


def base_fingerprint(base: checkpoints.BaseCheckpoint) -> str:
  """Returns the fingerprint of a checkpoint without its methods' parameters."""
  if known := base.metadata.get("base_fingerprint"):
    return known  # The checkpoint of a run stores it.
  of_methods = re.compile(rf"({'|'.join(injections.PLACES.values())})/.*")
  arrays = {
    name: array
    for name, array in base.arrays.items()
    if not of_methods.fullmatch(name)
  }
  if len(arrays) < len(base.arrays):
    base = dataclasses.replace(base, arrays=arrays, metadata={})
  return base.fingerprint


def embedding_of(base: checkpoints.BaseCheckpoint) -> np.ndarray:
  """Reads the embedding of a checkpoint, [V, H] float32; int8 is scaled.

  Raises:
    ValueError: if it has none.
  """
  name = TOKEN_EMBEDDING
  if name not in base.arrays:
    raise ValueError(
      f"{base.path} has no parameter {name}; it has "
      f"{', '.join(list(base.arrays)[:5])}, ..."
    )
  array = int8.held_by(base, [name]).arrays[name]
  return np.asarray(stored_arrays.read(array), np.float32)


def vocabulary_file(path: str) -> str:
  """Finds the SentencePiece file, `*.model`, beside a checkpoint.

  Args:
    path: As for `t5x.checkpoints.find_checkpoint`.

  Raises:
    ValueError: unless there is exactly one.
  """
  folder = epath.Path(checkpoints.find_checkpoint(path))
  found = sentencepiece_model.files_in(folder)
  found = found or sorted(folder.parent.glob("*.model"))
  if len(found) != 1:
    names = ", ".join(file.name for file in found) or "none"
    raise ValueError(
      f"Expected one SentencePiece file of the model, such as spiece.model, in "
      f"{folder} or {folder.parent}, got {names}. Leave one there, or name it: "
      "load(..., vocabulary='spiece.model') in Python, "
      "--gin.VOCABULARY_FILE=\"'spiece.model'\" in tune."
    )
  return str(found[0])
