"""The sizes and settings of a T5 1.1."""

from collections.abc import Mapping
import dataclasses
import re
from typing import Annotated, Any, ClassVar

from pydantic import Field, PositiveInt

from prompt_tuning.models.config import TOKEN_EMBEDDING, NetworkConfig


@dataclasses.dataclass(frozen=True)
class T5Config(NetworkConfig):
  """Sizes of a T5 1.1, and its settings beside those of any network.

  Attributes:
    vocab_size: Rows of the embedding, V.
    emb_dim: Model width, H.
    num_heads: N.
    num_encoder_layers: L of the encoder.
    num_decoder_layers: L of the decoder.
    head_dim: D. N * D need not be H.
    mlp_dim: F.
    relative_attention_num_buckets: Distances that a head distinguishes.
    relative_attention_max_distance: In positions; the last bucket takes
      everything beyond.
  """

  vocab_size: PositiveInt
  emb_dim: PositiveInt
  num_heads: PositiveInt
  num_encoder_layers: PositiveInt
  num_decoder_layers: PositiveInt
  head_dim: PositiveInt
  mlp_dim: PositiveInt
  dropout_rate: Annotated[float, Field(ge=0, lt=1)] = dataclasses.field(
    default=0.1, kw_only=True
  )
  relative_attention_num_buckets: int = 32
  relative_attention_max_distance: int = 128

  def __post_init__(self):
    super().__post_init__()
    # Half of them are for later keys; half of a half hold one distance each.
    most = 2 * self.relative_attention_max_distance
    if not 4 <= (buckets := self.relative_attention_num_buckets) < most:
      raise ValueError(
        "Expected relative_attention_num_buckets of at least 4 and less than "
        f"twice relative_attention_max_distance, {most}, got {buckets}."
      )

  # Settings of the shared layers that no T5 varies; see `DecoderConfig`.
  norm_epsilon = 1e-6
  norm_offset = 0
  has_post_norms = False
  has_qkv_bias = False
  has_qk_norm = False
  scales_embedding = False
  ends_inputs = True
  query_scale = 1.0
  attention_soft_cap = None
  logit_soft_cap = None

  # The function in gin files whose parameters are the settings.
  GIN_NAME: ClassVar[str] = "network.T5Config"

  @property
  def stacks(self) -> tuple[int, ...]:
    """The number of layers of each stack."""
    return self.num_encoder_layers, self.num_decoder_layers

  @property
  def num_kv_heads(self) -> int:
    """Heads of keys and values: as many as of queries."""
    return self.num_heads


def config_of(shapes: Mapping[str, Any]) -> T5Config:
  """Infers the sizes of a T5; its settings are the defaults.

  The shapes do not determine the activation function and the last distance of
  the relative bias. These are assumed to be those of T5 1.1 and FLAN-T5 (gated
  gelu) or, if the MLP has one branch, of the first T5 (relu).

  Args:
    shapes: T5X's name -> an array, or another object with a shape.

  Raises:
    ValueError: if an array that determines a size is missing.
  """

  def shape(name: str) -> tuple[int, ...]:
    if name not in shapes:
      raise ValueError(
        f"Expected the parameter {name} of a T5 with T5X's names, got "
        f"{', '.join(list(shapes)[:5])}, ... Convert the model first: "
        "prompt-tuning convert checkpoint. For another architecture, give its "
        "config."
      )
    found = tuple(shapes[name].shape)
    if len(found) != 2 or 0 in found:
      raise ValueError(f"Expected a matrix {name} of a T5, got shape {found}.")
    return found

  def num_layers(stack: str) -> int:
    numbers = (re.match(rf"{stack}/layers_(\d+)/", name) for name in shapes)
    return max((int(m[1]) for m in numbers if m), default=-1) + 1

  vocab_size, emb_dim = shape(TOKEN_EMBEDDING)
  num_heads, num_buckets = shape("encoder/relpos_bias/rel_embedding")
  is_gated = "encoder/layers_0/mlp/wi_0/kernel" in shapes
  mlp = f"encoder/layers_0/mlp/{'wi_0' if is_gated else 'wi'}/kernel"
  return T5Config(
    vocab_size=vocab_size,
    emb_dim=emb_dim,
    num_heads=num_heads,
    num_encoder_layers=num_layers("encoder"),
    num_decoder_layers=num_layers("decoder"),
    head_dim=shape("encoder/layers_0/attention/query/kernel")[1] // num_heads,
    mlp_dim=shape(mlp)[1],
    mlp_activations=("gelu", "linear") if is_gated else ("relu",),
    logits_via_embedding="decoder/logits_dense/kernel" not in shapes,
    relative_attention_num_buckets=num_buckets,
    base_weights="int8" if f"{TOKEN_EMBEDDING}_scale" in shapes else None,
  )
