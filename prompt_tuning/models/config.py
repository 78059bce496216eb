"""Names and checks that the configurations of all networks share."""

from typing import Any

import jax.numpy as jnp

# The name of the embedding, [V, H].
TOKEN_EMBEDDING = "token_embedder/embedding"
# The outputs of attentions, before their projection, and the branches of MLPs,
# in the order of the time to compute a byte of them again.
KEPT = ("attention", "mlp")


def check(config: Any) -> None:
  """Raises ValueError for dtypes, dropout or `remat_keeps` that are wrong.

  Args:
    config: The configuration of a network.
  """
  for dtype in (config.dtype, config.param_dtype):
    try:
      is_float = jnp.issubdtype(jnp.dtype(dtype), jnp.floating)
    except TypeError:
      is_float = False
    if not is_float:
      raise ValueError(
        f"Expected a dtype such as float32 or bfloat16, got {dtype!r}."
      )
  # Flax accepts any number, and gives zeros if it is out of range.
  if not 0 <= config.dropout_rate < 1:
    raise ValueError(
      f"Expected a dropout rate in [0, 1), got {config.dropout_rate}."
    )
  if config.base_weights not in (None, "int8"):
    raise ValueError(
      f"Expected base_weights 'int8' or None, got {config.base_weights!r}."
    )
  if unknown := set(config.remat_keeps) - set(KEPT):
    raise ValueError(f"Expected remat_keeps of {KEPT}, got {sorted(unknown)}.")
  if config.remat_keeps and not config.remat:
    raise ValueError(
      f"remat_keeps={config.remat_keeps} needs layers that are rematerialised: "
      "give remat=True as well."
    )
