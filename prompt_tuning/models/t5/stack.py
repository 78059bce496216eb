"""Layers one after the other: unrolled, or one program for all of them.

Where layers are scanned, the parameters of all are stacked, [L, ...], under the
one name `layers`; checkpoints hold them apart, as `layers_0` and on. XLA then
compiles one layer, whatever L is. Where they are not, Python traces one layer,
which is a function of the program, and XLA compiles its calls as if they were
written out.
"""

from collections.abc import Callable, Sequence
from typing import Any

from flax.core import lift
from flax.core.scope import LazyRng
import flax.linen as nn
from flax.linen import partitioning
import jax
import jax.numpy as jnp

from prompt_tuning.injections import Injections
from prompt_tuning.models.t5.config import T5Config
from prompt_tuning.types import Array, PRNGKey

# A module below a layer that drops, and which of its calls: what flax makes a
# key from, after the path of the layer.
Draw = tuple[str | int, ...]
# Of all draws of a layer; flax makes its own of what is None.
Keys = Sequence[PRNGKey | None]
# Keys and values, [X, N * D] each, of one attention of one layer.
Prefix = tuple[Array, Array] | None

SCANNED = "layers"
# Decoding wants the batch as the first axis of what is cached.
_VARIABLE_AXES: Any = {"params": 0, "cache": 1, "attended": 1}


def apply_layers(
  make_layer: Any,
  owner: nn.Module,
  num_layers: int,
  prefix_names: Sequence[str],
  hidden: Array,
  *shared: Any,
  enable_dropout: bool,
) -> Array:
  """Applies the layers of a stack, inside its compact method.

  Args:
    make_layer: A module class with the fields `config`, `injections` and
      `enable_dropout`, whose `(hidden, prefixes, *shared, keys)` returns
      `(hidden, None)`. The keys are of its `draws`; without, flax makes them.
    owner: The encoder or decoder, which has the first two.
    num_layers: L.
    prefix_names: Of the prefixes of the attentions of a layer.
    hidden: [B, T, H]
    *shared: What every layer is given.
    enable_dropout: Whether to drop activations.

  Returns:
    [B, T, H]
  """
  config, injections = owner.config, owner.injections
  fields = {
    "config": config,
    "injections": injections,
    "enable_dropout": enable_dropout,
  }
  # One tuple of prefixes a layer.
  prefixes = [
    _prefixes(owner, name, config, injections, num_layers)
    for name in prefix_names
  ]
  by_layer = list(zip(*prefixes, strict=True))
  draws = make_layer.draws if enable_dropout and config.dropout_rate else ()
  make_layer = rematerialised(make_layer, config)
  if not config.scan_layers:
    is_program = _is_staged(hidden) and not owner.is_initializing()
    if is_program:
      make_layer = traced_once(make_layer)
    for i, of_layer in enumerate(by_layer):
      name = f"{SCANNED}_{i}"
      layer = make_layer(**fields, name=name)
      keys = _dropout_keys(owner, name, draws) if is_program else None
      hidden, _ = layer(hidden, of_layer, *shared, keys)
    return hidden
  _refuse_single_layers(injections)
  in_axes: Any = (0, *(nn.broadcast for _ in shared))
  scanned = partitioning.scan_with_axes(
    make_layer,
    variable_axes=_VARIABLE_AXES,
    split_rngs={"params": True, "dropout": True},
    in_axes=in_axes,
    length=num_layers,
    axis_name=SCANNED,
  )
  stacked = jax.tree.map(lambda *x: jnp.stack(x), *by_layer)
  return scanned(**fields, name=SCANNED)(hidden, stacked, *shared)[0]


def rematerialised(
  make_layer: Callable[..., Any], config: T5Config
) -> Callable[..., Any]:
  """Makes layers whose backward pass computes again what is not to be kept."""
  if not config.remat:
    return make_layer
  return nn.remat(
    make_layer,
    # Within a scan nothing can be shared with the forward pass by mistake.
    prevent_cse=not config.scan_layers,
    policy=jax.checkpoint_policies.save_only_these_names(*config.remat_keeps),
  )


def traced_once(make_layer: Callable[..., Any]) -> Callable[..., Any]:
  """Makes layers that Python traces once for all that are equal.

  JAX keeps what it traced, differentiated and lowered by the shapes of all
  arguments, variables among them: a layer whose variables have others, as where
  a method extends some layers alone, is traced apart.

  Args:
    make_layer: A module class. What a layer computes may depend on its path by
      its variables alone.

  Returns:
    Another, for one stack of layers that exist already.
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
  """Whether `jax.jit` or alike traces; what runs at once would be compiled."""
  return isinstance(x, jax.core.Tracer) and x.to_concrete_value() is None


def _dropout_keys(
  owner: nn.Module, layer: str, draws: Sequence[Draw]
) -> Keys | None:
  """Makes the keys of a layer of `owner`, as flax does; None without dropout.

  A layer that is traced for others does not know its own path.
  """
  assert owner.scope is not None
  if not draws or not owner.has_rng("dropout"):
    return None
  rng = owner.scope.rngs["dropout"]
  return tuple(LazyRng.create(rng, layer, *x).as_jax_rng() for x in draws)


def _prefixes(
  owner: nn.Module,
  name: str,
  config: T5Config,
  injections: Injections,
  num_layers: int,
) -> Sequence[Prefix]:
  """Makes the keys and values in front of one attention of every layer."""
  if prefix := injections.build(injections.prefix, owner, name):
    return prefix(
      num_layers, config.emb_dim, config.num_heads * config.head_dim
    )
  return [None] * num_layers


def _refuse_single_layers(injections: Injections) -> None:
  """Refuses targets that tell layers apart.

  Raises:
    ValueError: if there are some.
  """
  for place in injections.used:
    targets = getattr(injections, f"{place}_targets", "")
    if f"{SCANNED}_" in targets:
      raise ValueError(
        f"Expected {place}_targets that mean all layers alike, as they are "
        f"scanned, got {targets!r}. Bind network.T5Config.scan_layers = False."
      )
