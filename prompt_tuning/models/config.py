"""Names and settings that the configurations of all networks share."""

import dataclasses
from typing import Annotated, Literal, get_args

import jax
import jax.numpy as jnp
from pydantic import Field

from prompt_tuning.types import DType

# The name of the embedding, [V, H].
TOKEN_EMBEDDING = "token_embedder/embedding"
# The outputs of attentions, before their projection, and the branches of MLPs,
# in the order of the time to compute a byte of them again.
KEPT = ("attention", "mlp")
BaseWeights = Literal["int8", "int8_products"]


@dataclasses.dataclass(frozen=True, kw_only=True)
class NetworkConfig:
  """Settings that all networks have; a subclass adds its sizes.

  Attributes:
    dtype: Dtype of activations and matrix products (which accumulate in
      float32). Both dtypes may be given as JAX's, and are kept as names.
    param_dtype: Dtype of the parameters. A prompt is float32 in any case.
    mlp_activations: Functions of `jax.nn`, or "linear", one for each branch;
      the branches are multiplied.
    dropout_rate: In [0, 1). One mask for all positions of an example.
    logits_via_embedding: Whether the embedding is the output head as well.
    remat: Whether the backward pass computes each layer's activations again
      instead of keeping them.
    remat_keeps: Activations that `remat` keeps, some of `KEPT`.
    scan_layers: Whether the layers of a stack are one program that runs L
      times, with stacked parameters; see `stack`. It compiles in the time of
      one layer.
    attention_kernel: A key of `attention.KERNELS`: "cudnn" on a GPU,
      "flash" on a TPU. None uses the attention that runs on every platform.
    base_weights: "int8" to hold kernels and the embedding in int8, frozen, with
      a scale for each channel; "int8_products" to round the inputs of kernels
      to int8 too, except for the output head; None to use `param_dtype`.
  """

  dtype: DType = "bfloat16"
  param_dtype: DType = "float32"
  mlp_activations: tuple[str, ...] = ("gelu", "linear")
  dropout_rate: Annotated[float, Field(ge=0, lt=1)] = 0.0
  logits_via_embedding: bool = False
  remat: bool = False
  remat_keeps: tuple[str, ...] = ()
  scan_layers: bool = False
  attention_kernel: str | None = None
  base_weights: BaseWeights | None = None

  def __post_init__(self):
    for name in ("dtype", "param_dtype"):
      dtype = getattr(self, name)
      try:
        is_float = jnp.issubdtype(jnp.dtype(dtype), jnp.floating)
      except TypeError:
        is_float = False
      if dtype is None or not is_float:  # NumPy takes None for float64.
        raise ValueError(
          f"Expected a dtype such as float32 or bfloat16, got {dtype!r}."
        )
      # A run is identified by its text.
      object.__setattr__(self, name, jnp.dtype(dtype).name)
    known = {"linear", *dir(jax.nn)}
    if not self.mlp_activations or {*self.mlp_activations} - known:
      raise ValueError(
        "Expected mlp_activations of functions of jax.nn and linear, got "
        f"{self.mlp_activations}."
      )
    # Flax accepts any number, and gives zeros if it is out of range.
    if not 0 <= self.dropout_rate < 1:
      raise ValueError(
        f"Expected a dropout rate in [0, 1), got {self.dropout_rate}."
      )
    if self.base_weights not in (None, *get_args(BaseWeights)):
      raise ValueError(
        "Expected base_weights 'int8', 'int8_products' or None, got "
        f"{self.base_weights!r}."
      )
    if unknown := set(self.remat_keeps) - set(KEPT):
      raise ValueError(
        f"Expected remat_keeps of {KEPT}, got {sorted(unknown)}."
      )
    if self.remat_keeps and not self.remat:
      raise ValueError(
        f"remat_keeps={self.remat_keeps} needs layers that are rematerialised: "
        "give remat=True as well."
      )
