"""A layer, and stacks of them: unrolled, or one program for all layers.

If layers are scanned, their parameters are stacked, [L, ...], under the single
name `layers`, while checkpoints hold them apart, as `layers_0` and so on. XLA
compiles one layer for any L. If they are unrolled, Python traces one layer as a
function of the program, and XLA compiles each call of it as if it were inlined.
"""

from collections.abc import Callable, Sequence
import functools
from typing import Any, NamedTuple

from flax.core import lift
from flax.core.scope import LazyRng
import flax.linen as nn
from flax.linen import partitioning
import jax
import jax.numpy as jnp

from prompt_tuning.injections import Injections
from prompt_tuning.models.layers import (
  Config,
  Mlp,
  RMSNorm,
  constrain,
  make_dropout,
)
from prompt_tuning.models.multi_head import Attention, KeysAndValues, View
from prompt_tuning.types import Array, PRNGKey

SCANNED = "layers"
# The attentions of a layer, and the norm before each.
ENCODER = (("attention", "pre_attention_layer_norm"),)
DECODER = (
  ("self_attention", "pre_self_attention_layer_norm"),
  ("encoder_decoder_attention", "pre_cross_attention_layer_norm"),
)
ACTIVATION_AXES = ("batch", "length", "embed")
# Decoding needs the batch as the first axis of cached arrays.
_VARIABLE_AXES: Any = {"params": 0, "cache": 1, "attended": 1}


class OfLayer(NamedTuple):
  """The arguments of one layer.

  Attributes:
    prefixes: The prefix of each attention; see `Attention`.
    past: Keys and values in front of those of the input, or None.
    is_local: Whether the layer takes the second view of its attention; None if
      there is only one.
  """

  prefixes: Sequence[KeysAndValues | None]
  past: KeysAndValues | None = None
  is_local: Array | None = None


class Layer(nn.Module):
  """Attentions and an MLP, each with a residual sum.

  Attributes:
    config: The model's configuration.
    injections: The model's injections.
    attentions: ENCODER or DECODER.
    enable_dropout: Whether to drop activations.
    hands_on: Whether the keys and values of the input are returned.
  """

  config: Config
  injections: Injections
  attentions: tuple[tuple[str, str], ...]
  enable_dropout: bool
  hands_on: bool = False

  @nn.compact
  def __call__(
    self,
    hidden: Array,
    of_layer: OfLayer,
    views: Sequence[View],
    keys: Sequence[PRNGKey] | None = None,
  ) -> tuple[Array, KeysAndValues | None]:
    """Computes one layer.

    Args:
      hidden: [B, T, H]
      of_layer: The arguments of this layer.
      views: The arguments of each attention. If there is one more, local
        layers take that for the first.
      keys: The dropout keys in the order of their use, two for each attention
        and two for the MLP, or None to let flax make them.

    Returns:
      [B, T, H], and the keys and values of the last attention, or None.
    """
    config, enable_dropout = self.config, self.enable_dropout
    rngs = iter(keys or (None,) * 2 * (len(self.attentions) + 1))
    dropout = make_dropout(config, enable_dropout)
    if of_layer.is_local is not None:
      choose = functools.partial(jnp.where, of_layer.is_local)
      first, *others, local = views
      views = [jax.tree.map(choose, local, first), *others]

    def after(outputs: Array, name: str) -> Array:
      if config.has_post_norms:
        outputs = RMSNorm(config, name=name.replace("pre", "post"))(outputs)
      return dropout(outputs, rng=next(rngs))

    own = None
    for (name, norm), prefix, view in zip(
      self.attentions, of_layer.prefixes, views, strict=True
    ):
      outputs, own = Attention(config, self.injections, name=name)(
        RMSNorm(config, name=norm)(hidden),
        view,
        prefix,
        of_layer.past,
        enable_dropout=enable_dropout,
        dropout_key=next(rngs),
      )
      hidden += after(outputs, norm)
    mlp_norm = "pre_mlp_layer_norm"
    normed = RMSNorm(config, name=mlp_norm)(hidden)
    mlp = Mlp(config, self.injections, name="mlp")
    hidden += after(mlp(normed, enable_dropout, next(rngs)), mlp_norm)
    hidden = constrain(hidden, ACTIVATION_AXES)
    return hidden, own if self.hands_on else None


def apply_layers(
  owner: nn.Module,
  num_layers: int,
  attentions: tuple[tuple[str, str], ...],
  hidden: Array,
  *views: View,
  enable_dropout: bool,
  past: Any = None,
  hands_on: bool = False,
) -> tuple[Array, Any]:
  """Applies the layers of a stack and its norm, inside its compact method.

  Args:
    owner: The encoder or decoder, with the fields `config` and `injections`.
      The norm is called `<its name>_norm`.
    num_layers: L.
    attentions: ENCODER or DECODER.
    hidden: [B, T, H]
    *views: The arguments of each attention, shared by all layers. If there is
      one more, local layers take that for the first.
    enable_dropout: Whether to drop activations.
    past: Keys and values that an earlier call returned.
    hands_on: Whether to return keys and values of the input.

  Returns:
    [B, T, H], and the keys and values of all layers, or None.

  Raises:
    ValueError: if layers are scanned, but a method's targets name single ones.
  """
  config, injections = owner.config, owner.injections
  fields = (config, injections, attentions, enable_dropout, hands_on)
  by_layer = _by_layer(owner, num_layers, attentions)
  if len(views) > len(attentions):
    by_layer = [
      x._replace(is_local=jnp.asarray(config.is_local(i)))
      for i, x in enumerate(by_layer)
    ]
  dropout = make_dropout(config, enable_dropout)
  norm = RMSNorm(config, name=f"{owner.name}_norm")
  if config.scales_embedding:
    hidden *= jnp.asarray(config.emb_dim**0.5, hidden.dtype)
  hidden = constrain(dropout(hidden), ACTIVATION_AXES)
  call = rematerialised(config)
  if not config.scan_layers:
    is_program = _is_staged(hidden) and not owner.is_initializing()
    if is_program:
      call = traced_once(call)
    handed_on = []
    for i, of_layer in enumerate(by_layer):
      if past is not None:
        of_layer = of_layer._replace(past=past[i])
      layer = Layer(*fields, name=f"{SCANNED}_{i}")
      drops = is_program and enable_dropout and config.dropout_rate
      keys = _dropout_keys(owner, layer) if drops else None
      hidden, own = call(layer, hidden, of_layer, views, keys)
      handed_on.append(own)
    return dropout(norm(hidden)), handed_on if hands_on else None
  for place in injections.used:
    targets = getattr(injections, f"{place}_targets", "")
    if f"{SCANNED}_" in targets:
      raise ValueError(
        f"Expected {place}_targets that treat all layers alike, because they "
        f"are scanned, got {targets!r}. Bind "
        f"network.{type(config).__name__}.scan_layers = False."
      )
  scanned = partitioning.scan_with_axes(
    call,
    variable_axes=_VARIABLE_AXES,
    split_rngs={"params": True, "dropout": True},
    in_axes=(0, nn.broadcast),  # pyright: ignore[reportArgumentType]
    length=num_layers,
    axis_name=SCANNED,
  )
  stacked = jax.tree.map(lambda *x: jnp.stack(x), *by_layer)
  stacked = stacked._replace(past=past)
  layer = Layer(*fields, name=SCANNED)
  hidden, handed_on = scanned(layer, hidden, stacked, views)
  return dropout(norm(hidden)), handed_on


def _by_layer(
  owner: nn.Module, num_layers: int, attentions: tuple[tuple[str, str], ...]
) -> list[OfLayer]:
  """Makes the prefixes of all layers."""
  config, prefixes = owner.config, []
  for name, _ in attentions:
    prefix = owner.injections.build("prefix", owner, f"{name}_prefix")
    kv_dim = config.num_kv_heads * config.head_dim
    prefixes.append(
      prefix(num_layers, config.emb_dim, kv_dim)
      if prefix
      else [None] * num_layers
    )
  return [OfLayer(x) for x in zip(*prefixes, strict=True)]


def rematerialised(config: Config) -> Callable[..., Any]:
  """Returns the call of a layer, or one that keeps few activations.

  The backward pass computes the others again. As everywhere here, a method is
  lifted, not a class: Flax would make another class at every trace, and while
  it does, the fields of `nn.Module` are gone for threads that trace as well.
  """
  if not config.remat:
    return Layer.__call__
  return nn.remat(
    Layer.__call__,
    # Within a scan, XLA cannot merge it with the forward pass anyway.
    prevent_cse=not config.scan_layers,
    policy=jax.checkpoint_policies.save_only_these_names(*config.remat_keeps),
  )


def traced_once(call: Callable[..., Any]) -> Callable[..., Any]:
  """Makes a method that Python traces once for all equal layers.

  JAX caches traces by the shapes of all arguments, including variables. A layer
  whose variables have other shapes, because a method extends some layers only,
  is traced separately.

  Args:
    call: The method of a module class, as a function of a layer and arguments.
      Its result may depend on the layer's path through its variables only.

  Returns:
    Another function, for one stack of layers that are already initialised.
  """
  body = None

  def layer(*arguments):
    assert body is not None
    return body(*arguments)

  jitted = jax.jit(layer)

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

  return nn.transforms.lift_transform(of_layer, call)


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
