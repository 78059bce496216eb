"""A stack of layers: unrolled, or one program for all of them.

If layers are scanned, their parameters are stacked, [L, ...], under the single
name `layers`, while checkpoints hold them apart, as `layers_0` and so on. XLA
compiles one layer for any L. If they are unrolled, Python traces one layer as a
function of the program, and XLA compiles each call of it as if it were inlined.
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

# The path below a layer of a module with dropout, and the number of its call.
# Flax derives a key from these and the path of the layer.
Draw = tuple[str | int, ...]
# A key for each draw of a layer, or None to let flax make it.
Keys = Sequence[PRNGKey | None]
# Prefix keys and values, [X, N * D] each, of one attention of one layer.
Prefix = tuple[Array, Array] | None

SCANNED = "layers"
# Decoding needs the batch as the first axis of cached arrays.
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
      `(hidden, None)`. The keys are for its `draws`; flax makes them if None.
    owner: The encoder or decoder, with the fields `config` and `injections`.
    num_layers: L.
    prefix_names: Names of the prefixes, one for each attention of a layer.
    hidden: [B, T, H]
    *shared: Further arguments of every layer.
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
  """Makes layers whose backward pass computes most activations again."""
  if not config.remat:
    return make_layer
  return nn.remat(
    make_layer,
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


def _dropout_keys(
  owner: nn.Module, layer: str, draws: Sequence[Draw]
) -> Keys | None:
  """Makes the keys of a layer of `owner`, as flax does; None without dropout.

  A layer that is traced for all layers does not know its own path.
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
  """Makes the prefixes of one attention of every layer."""
  if prefix := injections.build(injections.prefix, owner, name):
    return prefix(
      num_layers, config.emb_dim, config.num_heads * config.head_dim
    )
  return [None] * num_layers


def _refuse_single_layers(injections: Injections) -> None:
  """Refuses targets that distinguish layers.

  Raises:
    ValueError: if a target names single layers.
  """
  for place in injections.used:
    targets = getattr(injections, f"{place}_targets", "")
    if f"{SCANNED}_" in targets:
      raise ValueError(
        f"Expected {place}_targets that treat all layers alike, because they "
        f"are scanned, got {targets!r}. Bind "
        "network.T5Config.scan_layers = False."
      )
