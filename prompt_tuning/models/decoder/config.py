"""The sizes and settings of a decoder: Llama, Mistral, Qwen, Gemma."""

import dataclasses
from typing import ClassVar

from pydantic import PositiveInt

from prompt_tuning.models.config import NetworkConfig
from prompt_tuning.models.rotary import Rope


@dataclasses.dataclass(frozen=True)
class DecoderConfig(NetworkConfig):
  """Sizes and settings of a decoder; see `T5Config` for sizes not listed here.

  Attributes:
    num_layers: L.
    num_kv_heads: Heads of keys and values, which divide N. Adjacent heads of
      queries share one.
    norm_epsilon: Added to the mean square.
    norm_offset: Added to a norm's scale: 1 in Gemma, else 0.
    has_post_norms: Whether each block's output is normalised too (Gemma 2, 3).
    has_qkv_bias: Whether queries, keys and values have a bias (Qwen 2).
    has_qk_norm: Whether the heads of queries and keys are normalised (Qwen 3,
      Gemma 3).
    query_scale: Factor of scores, D^-0.5 in most models.
    scales_embedding: Whether embeddings are multiplied by sqrt(H) (Gemma).
    attention_soft_cap: Bound of scores (Gemma 2); None for no bound.
    logit_soft_cap: The same for logits.
    rope: The rotary positions.
    local_rope: The rotary positions of layers with a window, if different
      (Gemma 3).
    window: Positions that a query of a layer with a window sees.
    global_every: Layers whose number, counted from 1, is a multiple of this
      have no window; with 0, all layers have the window, if there is one.
  """

  vocab_size: PositiveInt
  emb_dim: PositiveInt
  num_heads: PositiveInt
  num_layers: PositiveInt
  num_kv_heads: PositiveInt
  head_dim: PositiveInt
  mlp_dim: PositiveInt
  query_scale: float
  mlp_activations: tuple[str, ...] = dataclasses.field(
    default=("silu", "linear"), kw_only=True
  )
  norm_epsilon: float = 1e-6
  norm_offset: int = 0
  has_post_norms: bool = False
  has_qkv_bias: bool = False
  has_qk_norm: bool = False
  scales_embedding: bool = False
  attention_soft_cap: float | None = None
  logit_soft_cap: float | None = None
  rope: Rope = Rope()  # noqa: RUF009
  local_rope: Rope | None = None
  window: PositiveInt | None = None
  global_every: int = 0

  def __post_init__(self):
    super().__post_init__()
    if self.num_heads % self.num_kv_heads:
      raise ValueError(
        f"Expected num_kv_heads that divide num_heads={self.num_heads}, got "
        f"{self.num_kv_heads}."
      )

  GIN_NAME: ClassVar[str] = "base_model.decoder_config"
  # Whether the end token follows inputs.
  ends_inputs: ClassVar[bool] = False

  @property
  def stacks(self) -> tuple[int, ...]:
    """The number of layers of each stack."""
    return (self.num_layers,)

  def is_local(self, layer: int) -> bool:
    """Returns whether a layer, counted from 0, has the window."""
    if self.window is None:
      return False
    return not self.global_every or (layer + 1) % self.global_every != 0
