"""The sizes of a T5 1.1."""

import dataclasses

import jax.numpy as jnp

from prompt_tuning.types import DType

# The outputs of attentions, before their projection, and the branches of MLPs:
# per byte, the first take the longest to compute again, and then the second.
KEPT = ("attention", "mlp")


@dataclasses.dataclass(frozen=True)
class T5Config:
  """Sizes and settings of a T5 1.1.

  Attributes:
    vocab_size: Rows of the embedding, V.
    emb_dim: Model width, H.
    num_heads: N.
    num_encoder_layers: L of the encoder.
    num_decoder_layers: L of the decoder.
    head_dim: D. N * D need not be H.
    mlp_dim: F.
    dtype: Of activations and matrix products (which accumulate in float32).
    param_dtype: Of the parameters. A prompt is float32 whatever this says.
    mlp_activations: Functions of flax.linen, or "linear"; the branches are
      multiplied with each other.
    dropout_rate: In [0, 1). One mask for all positions of an example.
    logits_via_embedding: Whether the embedding is the output head as well.
    relative_attention_num_buckets: Distances that a head tells apart.
    relative_attention_max_distance: In positions; the last bucket takes
      everything beyond.
    remat: Whether the backward pass computes each layer's activations again
      instead of keeping them.
    remat_keeps: What `remat` keeps all the same: some of `KEPT`.
    scan_layers: Whether the layers of a stack are one program that runs L
      times, with their parameters stacked; see `t5.stack`. It takes the time
      of one layer to compile.
    attention_kernel: Of `t5.attention_kernels`: "cudnn" on a GPU, "flash" on a
      TPU. None is what every platform has.
  """

  vocab_size: int
  emb_dim: int
  num_heads: int
  num_encoder_layers: int
  num_decoder_layers: int
  head_dim: int
  mlp_dim: int
  dtype: DType = "bfloat16"
  param_dtype: DType = "float32"
  mlp_activations: tuple[str, ...] = ("gelu", "linear")
  dropout_rate: float = 0.1
  logits_via_embedding: bool = False
  relative_attention_num_buckets: int = 32
  relative_attention_max_distance: int = 128
  remat: bool = False
  remat_keeps: tuple[str, ...] = ()
  scan_layers: bool = False
  attention_kernel: str | None = None

  def __post_init__(self):
    for dtype in (self.dtype, self.param_dtype):
      try:
        is_float = jnp.issubdtype(jnp.dtype(dtype), jnp.floating)
      except TypeError:
        is_float = False
      if not is_float:
        raise ValueError(
          f"Expected a dtype such as float32 or bfloat16, got {dtype!r}."
        )
    if unknown := set(self.remat_keeps) - set(KEPT):
      raise ValueError(
        f"Expected remat_keeps of {KEPT}, got {sorted(unknown)}."
      )
    if self.remat_keeps and not self.remat:
      raise ValueError(
        f"remat_keeps={self.remat_keeps} says what rematerialised layers keep, "
        "and none is: give remat=True as well."
      )
