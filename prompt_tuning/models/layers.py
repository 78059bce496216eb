"""The layers that all networks share.

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

from prompt_tuning.injections import Injections
from prompt_tuning.methods.einsum import einsum, rounded_einsum
from prompt_tuning.methods.parameters import parameter
from prompt_tuning.models.decoder.config import DecoderConfig
from prompt_tuning.models.t5.config import T5Config
from prompt_tuning.types import Array, DType, Initializer, PRNGKey

Config = T5Config | DecoderConfig

# The name of a kernel [out, in], in which a CPU reads bfloat16 fastest; see
# `einsum`.
TRANSPOSED = "transposed_kernel"

constrain = partitioning.with_sharding_constraint

KERNEL_INIT = nn.initializers.variance_scaling(
  1.0, "fan_in", "truncated_normal"
)


def make_dropout(config: Config, enable_dropout: bool) -> nn.Dropout:
  """Dropout with one mask for all positions of an example, as in T5."""
  return nn.Dropout(
    config.dropout_rate, broadcast_dims=(-2,), deterministic=not enable_dropout
  )


def frozen_matrix(
  name: str,
  init: Initializer,
  shape: tuple[int, int],
  axes: tuple[str, str],
  config: Config,
  channels: int,
  module: nn.Module | None = None,
) -> tuple[Array, Array | None]:
  """Returns a matrix of a module, which may be held in int8.

  Args:
    name: Its name.
    init: Initialiser.
    shape: Its shape.
    axes: Logical names of its axes.
    config: The model's configuration.
    channels: The axis that has a factor for each channel in int8.
    module: The module; by default the one whose compact method is running.

  Returns:
    The matrix in the stored dtype, and None; or the matrix in int8, and a
    factor for each channel.
  """
  if config.base_weights is None:
    dtype = config.param_dtype
    return parameter(name, init, shape, axes, dtype, module), None
  zeros, ones = nn.initializers.zeros, nn.initializers.ones
  matrix = parameter(name, zeros, shape, axes, jnp.int8, module)
  of_channels = ((x[channels],) for x in (shape, axes))
  scale = f"{name}_scale", ones, *of_channels, jnp.float32, module
  return matrix, parameter(*scale)


def product(
  equation: str,
  inputs: Array,
  matrix: Array,
  scale: Array | None,
  dtype: DType,
  is_rounded: bool = False,
) -> Array:
  """Multiplies inputs [B, T, in] by a `frozen_matrix`.

  Args:
    equation: As for `einsum`.
    inputs: In the dtype of the product's operands.
    matrix: The first part of a `frozen_matrix`.
    scale: The second part, of output channels.
    dtype: Dtype of the result.
    is_rounded: Whether the inputs are rounded to int8, as the matrix is.
  """
  if matrix.dtype != jnp.int8:
    matrix = matrix.astype(inputs.dtype)
  multiply = rounded_einsum if is_rounded else einsum
  outputs = multiply(equation, inputs, matrix, dtype)
  return outputs if scale is None else outputs * scale.astype(dtype)[None, None]


class Dense(nn.Module):
  """A linear map.

  Attributes:
    config: The model's configuration.
    injections: The model's injections.
    features: Output width.
    axes: Logical names of the kernel's axes.
    kernel_init: Initialiser.
    output_dtype: Dtype of the product. If given, the operands have the wider of
      the activations' dtype and the stored kernel's. By default all have the
      activations' dtype.
    use_bias: Whether a bias is added.
    channels: The axis of the kernel that has a factor for each channel in int8:
      1 for outputs, 0 for inputs.
  """

  config: Config
  injections: Injections
  features: int
  axes: tuple[str, str]
  kernel_init: Initializer = KERNEL_INIT
  output_dtype: DType = None
  use_bias: bool = False
  channels: int = 1

  @nn.compact
  def __call__(self, inputs: Array) -> Array:
    """[B, T, in] -> [B, T, features]"""
    dtype, stored = jnp.dtype(self.config.dtype), self.config.param_dtype
    shape = (inputs.shape[-1], self.features)
    kernel, scale = self.get_variable("params", TRANSPOSED), None
    is_transposed = kernel is not None
    if not is_transposed:
      kernel, scale = frozen_matrix(
        "kernel", self.kernel_init, shape, self.axes, self.config, self.channels
      )
    if self.output_dtype:
      dtype = jnp.promote_types(dtype, kernel.dtype)
    operand = inputs.astype(dtype)
    if scale is not None and self.channels == 0:
      operand, scale = operand * scale.astype(dtype)[None, None], None
    rounds = self.config.base_weights == "int8_products"
    outputs = product(
      "bti,oi->bto" if is_transposed else "bti,io->bto",
      operand,
      kernel,
      scale,
      self.output_dtype or dtype,
      is_rounded=rounds and self.channels == 1,  # Not in a head.
    )
    if self.use_bias:
      zeros = nn.initializers.zeros
      bias = parameter("bias", zeros, shape[1:], self.axes[1:], stored)
      outputs += bias.astype(outputs.dtype)[None, None]
    if delta := self.injections.build("delta", self, "delta"):
      outputs += delta(inputs, self.features, self.axes)
    return outputs


class Embed(nn.Module):
  """Token embeddings, not scaled."""

  config: Config

  def setup(self):
    self.embedding, self.scale = frozen_matrix(
      "embedding",
      nn.initializers.normal(1.0),
      (self.config.vocab_size, self.config.emb_dim),
      ("vocab", "embed"),
      self.config,
      channels=0,
      module=self,
    )
    self.column_scale = None
    if self.scale is not None:
      ones, shape = nn.initializers.ones, (self.config.emb_dim,)
      self.column_scale = parameter(
        "embedding_column_scale", ones, shape, ("embed",), jnp.float32, self
      )

  def __call__(self, tokens: Array) -> Array:
    """[B, T] -> [B, T, H]. A token outside the vocabulary becomes NaN."""
    # Google's T5X initialises with floats by default.
    tokens = tokens.astype(jnp.int32)
    embedded = _rows(self.embedding, tokens)
    if self.scale is not None:
      embedded *= jnp.take(self.scale, tokens, axis=0)[..., None]
    if self.column_scale is not None:
      embedded *= self.column_scale[None, None]
    return embedded.astype(self.config.dtype)

  def attend(self, hidden: Array) -> Array:
    """[B, S, H] -> [B, S, V] The embedding as the output head, in float32."""
    if self.column_scale is not None:
      hidden *= self.column_scale.astype(hidden.dtype)[None, None]
    dtype = jnp.promote_types(hidden.dtype, self.embedding.dtype)
    table = self.embedding, self.scale
    return product("bth,vh->btv", hidden.astype(dtype), *table, jnp.float32)


@jax.custom_vjp
def _rows(table: Array, tokens: Array) -> Array:
  """[V, H], [B, T] -> [B, T, H]. A token that is not in the table gives NaN."""
  if table.dtype != jnp.bfloat16:
    return _take(table, tokens)
  return lax.platform_dependent(table, tokens, cpu=_take_bits, default=_take)


def _take(table: Array, tokens: Array) -> Array:
  return jnp.take(table, tokens, axis=0)


def _take_bits(table: Array, tokens: Array) -> Array:
  """Reads bfloat16 as integers.

  Otherwise XLA converts the whole table to float32 first, on a CPU.
  """
  # Otherwise XLA would write the whole table as integers ahead of a loop.
  table, tokens = lax.optimization_barrier((table, tokens))
  bits = lax.bitcast_convert_type(table, jnp.uint16)
  rows = jnp.take(bits, tokens, axis=0, fill_value=0x7FC0)  # NaN.
  return lax.bitcast_convert_type(rows, jnp.bfloat16)


def _rows_backward(operands: tuple[Array, Array], gradient: Array):
  table, tokens = operands
  return *jax.vjp(lambda x: _take(x, tokens), table)[1](gradient), None


_rows.defvjp(lambda *operands: (_rows(*operands), operands), _rows_backward)


def logits_of(owner: nn.Module, embedder: Embed, hidden: Array) -> Array:
  """Applies the output head, inside the compact method of a stack.

  Args:
    owner: The stack, with the fields `config` and `injections`.
    embedder: The embedding, which may be the head.
    hidden: [B, S, H]

  Returns:
    [B, S, V] in float32.
  """
  config = owner.config
  if config.logits_via_embedding:
    logits = embedder.attend(hidden)
  else:
    logits = Dense(
      config,
      owner.injections,
      config.vocab_size,
      ("embed", "vocab"),
      # A frozen kernel may be stored in bfloat16. Its products with bfloat16
      # are equal in either dtype, and accumulate in float32.
      output_dtype=jnp.float32,
      # Few channels of `hidden` may be much larger than the others.
      channels=0,
      name="logits_dense",
    )(hidden)
  if (cap := config.logit_soft_cap) is not None:
    logits = cap * jnp.tanh(logits / cap)
  return constrain(logits, ("batch", "length", "vocab"))


class RMSNorm(nn.Module):
  """A division by the root of the mean square, in float32.

  Attributes:
    config: The model's configuration.
    axis: Logical name of the last axis.
  """

  config: Config
  axis: str = "embed"

  @nn.compact
  def __call__(self, inputs: Array) -> Array:
    """[..., H] -> [..., H]"""
    config, shape = self.config, inputs.shape[-1:]
    # Gemma's norms store the difference from one.
    offset = config.norm_offset
    init = nn.initializers.constant(1 - offset)
    scale = parameter("scale", init, shape, (self.axis,), config.param_dtype)
    if offset:
      scale = scale.astype(jnp.float32) + offset
    return _rms_norm(inputs, scale, config.dtype, config.norm_epsilon)


# The float32 steps are cheap to compute again and large to keep.
@functools.partial(jax.checkpoint, static_argnums=(2, 3))
def _rms_norm(
  inputs: Array, scale: Array, dtype: DType, epsilon: float
) -> Array:
  """[..., H], [H] -> [..., H]"""
  inputs = inputs.astype(jnp.float32)
  mean_square = jnp.mean(lax.square(inputs), axis=-1, keepdims=True)
  normed = inputs * lax.rsqrt(mean_square + epsilon)
  scale = jnp.expand_dims(scale.astype(jnp.float32), range(inputs.ndim - 1))
  return (normed * scale).astype(dtype)


class Mlp(nn.Module):
  """A gated MLP: the branches from the input are multiplied."""

  config: Config
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
  wide = [branch.astype(jnp.float32) for branch in branches]
  product = functools.reduce(
    operator.mul,
    (
      branch if name == "linear" else getattr(jax.nn, name)(branch)
      for name, branch in zip(activations, wide, strict=True)
    ),
  )
  return product.astype(branches[0].dtype)
