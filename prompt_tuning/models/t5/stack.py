"""A layer, and stacks of them: unrolled, or one program for all layers.

If layers are scanned, their parameters are stacked, [L, ...], under the single
name `layers`, while checkpoints hold them apart, as `layers_0` and so on. XLA
compiles one layer for any L. If they are unrolled, Python traces one layer as a
function of the program, and XLA compiles each call of it as if it were inlined.
"""

from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

from flax.core import lift
from flax.core.scope import LazyRng
import flax.linen as nn
from flax.linen import partitioning
import jax
import jax.numpy as jnp

from prompt_tuning.injections import Injections
from prompt_tuning.models.t5.attention import Attention
from prompt_tuning.models.t5.config import T5Config
from prompt_tuning.models.t5.layers import Mlp, RMSNorm, constrain, make_dropout
from prompt_tuning.types import Array, PRNGKey

SCANNED = "layers"
# The attentions of a layer, and the norm before each.
ENCODER = (("attention", "pre_attention_layer_norm"),)
DECODER = (
  ("self_attention", "pre_self_attention_layer_norm"),
  ("encoder_decoder_attention", "pre_cross_attention_layer_norm"),
)
ACTIVATION_AXES = ("batch", "length", "embed")
# Prefix keys and values, [X, N * D] each, of one attention of one layer.
Prefix = tuple[Array, Array] | None
# Decoding needs the batch as the first axis of cached arrays.
_VARIABLE_AXES: Any = {"params": 0, "cache": 1, "attended": 1}


class View(NamedTuple):
  """The arguments of one attention that all layers share; see `Attention`.

  Attributes:
    mask: [B, 1, Q or 1, K]
    bias: [1, N, Q, K], or None.
    attended: [B, K, H], or None for the layer's own input.
    cache_index: Position of the first input in the cache, or None.
  """

  mask: Array
  bias: Array | None = None
  attended: Array | None = None
  cache_index: Array | None = None


class Layer(nn.Module):
  """Attentions and an MLP, each with a residual sum.

  Attributes:
    config: The model's configuration.
    injections: The model's injections.
    attentions: ENCODER or DECODER.
    enable_dropout: Whether to drop activations.
  """

  config: T5Config
  injections: Injections
  attentions: tuple[tuple[str, str], ...]
  enable_dropout: bool

  @nn.compact
  def __call__(
    self,
    hidden: Array,
    prefixes: Sequence[Prefix],
    views: Sequence[View],
    keys: Sequence[PRNGKey] | None = None,
  ) -> tuple[Array, None]:
    """Computes one layer.

    Args:
      hidden: [B, T, H]
      prefixes: The prefix of each attention; see `Attention`.
      views: The other arguments of each attention.
      keys: The dropout keys in the order of their use, two for each attention
        and two for the MLP, or None to let flax make them.

    Returns:
      [B, T, H], and None, as `scan` expects a pair.
    """
    config, enable_dropout = self.config, self.enable_dropout
    rngs = iter(keys or (None,) * 2 * (len(self.attentions) + 1))
    dropout = make_dropout(config, enable_dropout)
    for (name, norm), prefix, view in zip(
      self.attentions, prefixes, views, strict=True
    ):
      normed = RMSNorm(config, name=norm)(hidden)
      keeps = view.attended is not None
      attended = Attention(config, self.injections, keeps, name=name)(
        normed,
        normed if view.attended is None else view.attended,
        view.mask,
        view.bias,
        prefix,
        view.cache_index,
        enable_dropout=enable_dropout,
        dropout_key=next(rngs),
      )
      hidden += dropout(attended, rng=next(rngs))
    normed = RMSNorm(config, name="pre_mlp_layer_norm")(hidden)
    mlp = Mlp(config, self.injections, name="mlp")
    outputs = mlp(normed, enable_dropout, next(rngs))
    hidden += dropout(outputs, rng=next(rngs))
    return constrain(hidden, ACTIVATION_AXES), None


def apply_layers(
  owner: nn.Module,
  num_layers: int,
  attentions: tuple[tuple[str, str], ...],
  hidden: Array,
  *views: View,
  enable_dropout: bool,
) -> Array:
  """Applies the layers of a stack and its norm, inside its compact method.

  Args:
    owner: The encoder or decoder, with the fields `config` and `injections`.
      The norm is called `<its name>_norm`.
    num_layers: L.
    attentions: ENCODER or DECODER.
    hidden: [B, T, H]
    *views: The arguments of each attention, shared by all layers.
    enable_dropout: Whether to drop activations.

  Returns:
    [B, T, H]

  Raises:
    ValueError: if layers are scanned, but a method's targets name single ones.
  """
  config, injections = owner.config, owner.injections
  fields = (config, injections, attentions, enable_dropout)
  prefixes = []
  for name, _ in attentions:
    prefix = injections.build("prefix", owner, f"{name}_prefix")
    kv_dim = config.num_heads * config.head_dim
    prefixes.append(
      prefix(num_layers, config.emb_dim, kv_dim)
      if prefix
      else [None] * num_layers
    )
  by_layer = list(zip(*prefixes, strict=True))
  dropout = make_dropout(config, enable_dropout)
  norm = RMSNorm(config, name=f"{owner.name}_norm")
  hidden = constrain(dropout(hidden), ACTIVATION_AXES)
  make_layer = rematerialised(config)
  if not config.scan_layers:
    is_program = _is_staged(hidden) and not owner.is_initializing()
    if is_program:
      make_layer = traced_once(make_layer)
    for i, of_layer in enumerate(by_layer):
      layer = make_layer(*fields, name=f"{SCANNED}_{i}")
      drops = is_program and enable_dropout and config.dropout_rate
      keys = _dropout_keys(owner, layer) if drops else None
      hidden, _ = layer(hidden, of_layer, views, keys)
    return dropout(norm(hidden))
  for place in injections.used:
    targets = getattr(injections, f"{place}_targets", "")
    if f"{SCANNED}_" in targets:
      raise ValueError(
        f"Expected {place}_targets that treat all layers alike, because they "
        f"are scanned, got {targets!r}. Bind "
        "network.T5Config.scan_layers = False."
      )
  scanned = partitioning.scan_with_axes(
    make_layer,
    variable_axes=_VARIABLE_AXES,
    split_rngs={"params": True, "dropout": True},
    in_axes=(0, nn.broadcast),  # pyright: ignore[reportArgumentType]
    length=num_layers,
    axis_name=SCANNED,
  )
  stacked = jax.tree.map(lambda *x: jnp.stack(x), *by_layer)
  hidden, _ = scanned(*fields, name=SCANNED)(hidden, stacked, views)
  return dropout(norm(hidden))


def rematerialised(config: T5Config) -> Callable[..., Any]:
  """Returns `Layer`, or one whose backward pass computes activations again."""
  if not config.remat:
    return Layer
  return nn.remat(
    Layer,
    # Within a scan, XLA cannot merge it with the forward pass anyway.
    prevent_cse=not config.scan_layers,
    policy=jax.checkpoint_policies.save_only_these_names(*config.remat_keeps),
  )


def traced_once(make_layer: Callable[..., Any]) -> Callable[..., Any]:
  """Makes layers of which Python traces all equal ones once.

  JAX caches traces by the shapes of all arguments, including variables. A layer
  whose variables have other shapes, because a method extends some layers only,
  is traced separately.

  Args:
    make_layer: A module class. Its computation may depend on its path through
      its variables only.

  Returns:
    Another class, for one stack of layers that are already initialised.
  """
  body = None

  def call(*arguments):
    assert body is not None
    return body(*arguments)

  call.__name__ = make_layer.__name__
  jitted = jax.jit(call)

  def of_layer(compute: Callable[..., Any]) -> Callable[..., Any]:
    def inner(scope_fn, repack_fn, variables, rngs, *arguments):
      def of_arrays(variables, rngs, *arguments):
        scope = scope_fn(variables, rngs)
        return compute(scope, *arguments), repack_fn(scope)

      # The layer's path is in the key from now on, not beside it.
      rngs = jax.tree.map(
        lambda rng: LazyRng.create(rng.as_jax_rng()),
        rngs,
        is_leaf=lambda node: isinstance(node, LazyRng),
      )
      nonlocal body
      body = of_arrays
      try:
        return jitted(variables, rngs, *arguments)
      finally:
        body = None

    return lift.pack(inner, (True,), (True,), (True,), name="jit")

  return nn.transforms.lift_transform(of_layer, make_layer)


def _is_staged(x: Array) -> bool:
  """Returns whether a transformation such as `jax.jit` traces `x`.

  In eager execution, `traced_once` would compile the layer.
  """
  return isinstance(x, jax.core.Tracer) and x.to_concrete_value() is None


def _dropout_keys(owner: nn.Module, layer: Layer) -> Sequence[PRNGKey] | None:
  """Makes the keys of a layer of `owner`, as flax does.

  A layer that is traced for all layers does not know its own path. Flax derives
  a key from the path of the module with dropout and the number of its call.
  """
  assert owner.scope is not None
  assert layer.name is not None
  if not owner.has_rng("dropout"):
    return None
  rng = owner.scope.rngs["dropout"]
  branches = (*(name for name, _ in layer.attentions), "mlp")
  draws = (
    draw
    for call, branch in enumerate(branches, 1)
    for draw in ((branch, "Dropout_0", 1), ("Dropout_0", call))
  )
  return tuple(LazyRng.create(rng, layer.name, *x).as_jax_rng() for x in draws)
