"""The layers of T5 1.1.

Parameters have the names and shapes of T5X's minimal T5: kernels are
[in, out], with the heads joined.
"""

import functools
import operator

import flax.linen as nn
from flax.linen import partitioning
import jax
from jax import lax
from jax.ad_checkpoint import checkpoint_name
import jax.numpy as jnp
import numpy as np

from prompt_tuning.injections import Injections
from prompt_tuning.methods.einsum import einsum
from prompt_tuning.methods.parameters import parameter
from prompt_tuning.models.t5.config import T5Config
from prompt_tuning.types import Array, DType, Initializer, PRNGKey

constrain = partitioning.with_sharding_constraint

KERNEL_INIT = nn.initializers.variance_scaling(
  1.0, "fan_in", "truncated_normal"
)


def make_dropout(config: T5Config, enable_dropout: bool) -> nn.Dropout:
  """Dropout with one mask for all positions of an example, as in T5."""
  return nn.Dropout(
    config.dropout_rate, broadcast_dims=(-2,), deterministic=not enable_dropout
  )


class Dense(nn.Module):
  """A linear map without a bias.

  Attributes:
    config: The model's configuration.
    injections: The model's injections.
    features: Output width.
    axes: Logical names of the kernel's axes.
    kernel_init: Initialiser.
    output_dtype: Dtype of the product. If given, the operands have the wider of
      the activations' dtype and the stored kernel's. By default all have the
      activations' dtype.
  """

  config: T5Config
  injections: Injections
  features: int
  axes: tuple[str, str]
  kernel_init: Initializer = KERNEL_INIT
  output_dtype: DType = None

  @nn.compact
  def __call__(self, inputs: Array) -> Array:
    """[B, T, in] -> [B, T, features]"""
    dtype, stored = jnp.dtype(self.config.dtype), self.config.param_dtype
    shape = (inputs.shape[-1], self.features)
    kernel = parameter("kernel", self.kernel_init, shape, self.axes, stored)
    if self.output_dtype:
      dtype = jnp.promote_types(dtype, kernel.dtype)
    outputs = einsum(
      "bti,io->bto",
      inputs.astype(dtype),
      kernel.astype(dtype),
      self.output_dtype or dtype,
    )
    if delta := self.injections.build("delta", self, "delta"):
      outputs += delta(inputs, self.features, self.axes)
    return outputs


class Embed(nn.Module):
  """Token embeddings, not scaled."""

  config: T5Config

  def setup(self):
    self.embedding = partitioning.param_with_axes(
      "embedding",
      nn.initializers.normal(1.0),
      (self.config.vocab_size, self.config.emb_dim),
      jnp.dtype(self.config.param_dtype),
      axes=("vocab", "embed"),
      module=self,
    )

  def __call__(self, tokens: Array) -> Array:
    """[B, T] -> [B, T, H]. A token outside the vocabulary becomes NaN."""
    # Google's T5X initialises with floats by default.
    tokens = tokens.astype(jnp.int32)
    return jnp.take(self.embedding, tokens, axis=0).astype(self.config.dtype)

  def attend(self, hidden: Array) -> Array:
    """[B, S, H] -> [B, S, V] The embedding as the output head, rescaled."""
    hidden = hidden.astype(jnp.float32) / self.config.emb_dim**0.5
    table = self.embedding.astype(jnp.float32)
    return einsum("bth,vh->btv", hidden, table, jnp.float32)


class RMSNorm(nn.Module):
  """A division by the root of the mean square, in float32."""

  config: T5Config

  @nn.compact
  def __call__(self, inputs: Array) -> Array:
    """[B, T, H] -> [B, T, H]"""
    shape, ones = inputs.shape[-1:], nn.initializers.ones
    dtype = self.config.param_dtype
    scale = parameter("scale", ones, shape, ("embed",), dtype)
    return _rms_norm(inputs, scale, self.config.dtype)


# The float32 steps are cheap to compute again and large to keep.
@functools.partial(jax.checkpoint, static_argnums=(2,))
def _rms_norm(inputs: Array, scale: Array, dtype: DType) -> Array:
  """[B, T, H], [H] -> [B, T, H]"""
  inputs = inputs.astype(jnp.float32)
  mean_square = jnp.mean(lax.square(inputs), axis=-1, keepdims=True)
  normed = inputs * lax.rsqrt(mean_square + 1e-6)
  return (normed * scale.astype(jnp.float32)[None, None, :]).astype(dtype)


class RelativeBias(nn.Module):
  """A term of attention scores that depends on the distance of the key."""

  config: T5Config
  bidirectional: bool

  @nn.compact
  def __call__(self, query_positions: Array, key_positions: Array) -> Array:
    """[Q], [K] -> [1, N, Q, K] in float32."""
    table = parameter(
      "rel_embedding",
      nn.initializers.variance_scaling(1.0, "fan_avg", "uniform"),
      (self.config.num_heads, self.config.relative_attention_num_buckets),
      ("heads", "relpos_buckets"),
      self.config.param_dtype,
    )
    buckets = relative_buckets(
      key_positions[None, :] - query_positions[:, None],
      self.bidirectional,
      self.config.relative_attention_num_buckets,
      self.config.relative_attention_max_distance,
    )
    return table.astype(jnp.float32)[None, :, buckets]


def relative_buckets(
  offsets: Array, bidirectional: bool, num_buckets: int, max_distance: int
) -> Array:
  """Maps offsets to buckets that grow with the distance.

  Half of the buckets hold one distance each. The others grow by a constant
  factor up to `max_distance`; the last one takes all larger distances.

  Args:
    offsets: Position of the key minus that of the query, any shape.
    bidirectional: Whether the second half of the buckets is for keys after
      the query. If not, these keys have distance 0.
    num_buckets: Total number of buckets.
    max_distance: In positions.

  Returns:
    Bucket numbers, in the shape of `offsets`.
  """
  if bidirectional:
    num_buckets //= 2
  # A table of integers, because logarithms at the edge of a bucket differ
  # between devices. The small term keeps an edge in the upper bucket.
  single = num_buckets // 2
  distances = np.arange(max_distance + 1)
  growth = np.log(np.maximum(distances, single) / single) + 1e-6
  grown = single + growth / np.log(max_distance / single) * (
    num_buckets - single
  )
  bucket_of = np.where(distances < single, distances, grown).astype(np.int32)
  bucket_of = np.minimum(bucket_of, num_buckets - 1)

  distance = jnp.abs(offsets) if bidirectional else jnp.maximum(-offsets, 0)
  buckets = jnp.asarray(bucket_of)[jnp.minimum(distance, max_distance)]
  if bidirectional:
    buckets += jnp.where(offsets > 0, num_buckets, 0)
  return buckets


class Mlp(nn.Module):
  """A gated MLP: the branches from the input are multiplied."""

  config: T5Config
  injections: Injections

  @nn.compact
  def __call__(
    self,
    inputs: Array,
    enable_dropout: bool = False,
    dropout_key: PRNGKey | None = None,
  ) -> Array:
    """[B, T, H] -> [B, T, H]"""
    config, injections = self.config, self.injections
    gated = len(config.mlp_activations) > 1
    branches = []
    for i in range(len(config.mlp_activations)):
      branch = Dense(
        config,
        injections,
        config.mlp_dim,
        ("embed", "mlp"),
        name=f"wi_{i}" if gated else "wi",
      )(inputs)
      branches.append(checkpoint_name(branch, "mlp"))
    hidden = _gated(tuple(config.mlp_activations), *branches)
    if rescale := injections.build("rescale", self, "rescale"):
      hidden = rescale(hidden, ("mlp",))
    hidden = make_dropout(config, enable_dropout)(hidden, rng=dropout_key)
    hidden = constrain(hidden, ("batch", "length", "mlp"))
    outputs = Dense(
      config, injections, config.emb_dim, ("mlp", "embed"), name="wo"
    )(hidden)
    if adapter := injections.build("adapter", self, "adapter"):
      outputs = adapter(outputs)
    return outputs


# An activation has many steps, each as large as a branch. Keeping the branches
# is enough.
@functools.partial(jax.checkpoint, static_argnums=(0,))
def _gated(activations: tuple[str, ...], *branches: Array) -> Array:
  """Applies the activations and multiplies, [B, T, F] each."""
  return functools.reduce(
    operator.mul,
    (
      branch if name == "linear" else getattr(nn, name)(branch)
      for name, branch in zip(activations, branches, strict=True)
    ),
  )
