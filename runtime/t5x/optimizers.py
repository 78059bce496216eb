"""Optimizer definitions, counted by the trainer's own step, and schedules."""

from collections.abc import Callable, Mapping, Sequence
import difflib
from typing import Any

from flax import struct, traverse_util
import jax
import jax.numpy as jnp
import optax
from pydantic import NonNegativeFloat

from t5x.configuration import arguments
from t5x.formats import stacking

Params = Mapping[str, Any]
# The label of parameters that no traversal matches.
_FROZEN = "frozen"


class OptimizerState(struct.PyTreeNode):
  """The state that an optimizer carries from one step to the next.

  Attributes:
    step: int32 scalar, counted from pretraining step 0: it is restored with the
      weights, and the learning rate and Adafactor's decay depend on it.
    param_states: optax's state of the trainable parameters.
  """

  step: jax.Array
  param_states: Any


class OptimizerDef:
  """The parameters that train, and their optimizer.

  A definition holds no arrays. Subclasses provide the optax transformation; the
  arithmetic and the state are float32 whatever the parameters' dtype.

  Attributes:
    has_own_rate: Whether it ignores the trainer's learning rate.
  """

  has_own_rate = False

  def transformation(
    self, learning_rate: jax.Array | float, step: jax.Array | int
  ) -> optax.GradientTransformation:
    """Returns the transformation from gradients to updates.

    Args:
      learning_rate: Scalar, perhaps traced.
      step: Scalar, perhaps traced.

    Returns:
      A transformation whose state depends on neither argument.
    """
    raise NotImplementedError

  def trainable(self, params: Params) -> Params:
    """Returns a bool for each parameter: whether it trains.

    Args:
      params: All parameters of the model, or their shapes.

    Returns:
      Nested dictionaries of bool, with the structure of `params`.

    Raises:
      ValueError: if the definition does not fit the parameters.
    """
    return jax.tree.map(lambda _: True, params)

  def check_start(self, step: int) -> None:
    """Checks that a run can start or resume at a step.

    Args:
      step: Counted from pretraining step 0.

    Raises:
      ValueError: if a setting does not fit the step.
    """

  def init_state(self, params: Params) -> OptimizerState:
    """Returns the state for step 0, given only the trainable parameters."""
    transformation = self.transformation(learning_rate=0.0, step=0)
    return OptimizerState(
      step=jnp.zeros((), jnp.int32),
      param_states=transformation.init(optax.tree.cast(params, jnp.float32)),
    )

  def apply_gradient(
    self,
    hyper_params: Mapping[str, jax.Array | float],
    params: Params,
    state: OptimizerState,
    grads: Params,
  ) -> tuple[Params, OptimizerState]:
    """Takes one step.

    Args:
      hyper_params: `learning_rate`, a scalar.
      params: The trainable parameters.
      state: Their state.
      grads: Their gradients.

    Returns:
      The new parameters, in their dtype, and the new state.
    """
    transformation = self.transformation(
      hyper_params["learning_rate"], state.step
    )
    updates, param_states = transformation.update(
      optax.tree.cast(grads, jnp.float32),
      state.param_states,
      optax.tree.cast(params, jnp.float32),
    )
    new_params = jax.tree.map(
      lambda param, update: (param + update).astype(param.dtype),
      params,
      updates,
    )
    return new_params, OptimizerState(state.step + 1, param_states)


class OptaxWrapper(OptimizerDef):
  """Any optax optimizer; the learning rate and its schedule are inside."""

  has_own_rate = True

  def __init__(self, optax_optimizer: optax.GradientTransformation):
    self._optax_optimizer = optax_optimizer

  def transformation(self, learning_rate, step):
    return self._optax_optimizer


class MultiOptimizer(OptimizerDef):
  """Trains the parameters that traversals match; the others are frozen."""

  def __init__(
    self,
    traversals_and_optimizers: Sequence[
      tuple[traverse_util.ModelParamTraversal, OptimizerDef]
    ],
  ):
    """Makes the definition.

    Args:
      traversals_and_optimizers: Pairs. No two traversals may match the same
        parameter.

    Raises:
      ValueError: if there are no pairs.
    """
    if not traversals_and_optimizers:
      raise ValueError(
        "MultiOptimizer needs at least one (traversal, optimizer)."
      )
    self._traversals, self._optimizers = zip(
      *traversals_and_optimizers, strict=True
    )
    self.has_own_rate = all(x.has_own_rate for x in self._optimizers)

  def transformation(self, learning_rate, step):
    return optax.partition(
      {
        str(i): optimizer.transformation(learning_rate, step)
        for i, optimizer in enumerate(self._optimizers)
      },
      self._labels,
    )

  def trainable(self, params):
    labels = traverse_util.flatten_dict(self._labels(params), sep="/")
    for i, traversal in enumerate(self._traversals):
      filter_fn = traversal._filter_fn
      # Each of several patterns must match something.
      unmatched = getattr(filter_fn, "unmatched", lambda paths: [])(labels)
      if str(i) not in labels.values() or unmatched:
        name = str(unmatched or getattr(filter_fn, "__qualname__", filter_fn))
        # The paths that look most like the pattern, if the name shows one.
        near = difflib.get_close_matches(name, labels, n=5, cutoff=0.0)
        raise ValueError(
          f"Traversal {i}, {name}, matches none of the {len(labels)} "
          f"parameters. The closest names: {near}."
        )
    return traverse_util.unflatten_dict(
      {path: label != _FROZEN for path, label in labels.items()}, sep="/"
    )

  def check_start(self, step):
    for optimizer in self._optimizers:
      optimizer.check_start(step)

  def _labels(self, params: Params) -> Params:
    """Returns the number of the traversal that matches each parameter."""
    labels = {}
    for path, value in traverse_util.flatten_dict(params, sep="/").items():
      found = [
        str(i)
        for i, traversal in enumerate(self._traversals)
        if traversal._filter_fn(f"/{path}", value)
      ]
      if len(found) > 1:
        raise ValueError(
          f"Traversals {found[0]} and {found[1]} both match the parameter "
          f"{path}; make them disjoint."
        )
      labels[path] = found[0] if found else _FROZEN
    return traverse_util.unflatten_dict(labels, sep="/")


def parameter_of(
  path: Sequence[Any], params: Mapping[tuple[str, ...], Any]
) -> tuple[str, ...] | None:
  """Returns the name of the parameter that a leaf of a state belongs to."""
  keys = tuple(
    entry.key for entry in path if isinstance(entry, jax.tree_util.DictKey)
  )
  # optax nests the parameters' dictionaries inside its own.
  suffixes = (keys[start:] for start in range(len(keys)))
  return next((name for name in suffixes if name in params), None)


def by_layer(
  inner: optax.GradientTransformation,
) -> optax.GradientTransformation:
  """Treats every layer of stacked parameters as a separate parameter.

  Args:
    inner: A transformation that depends on whole parameters, such as on their
      root mean square, but treats each parameter separately.

  Returns:
    A transformation like `inner`, whose state has stacked leaves for stacked
    parameters.
  """

  def numbers_of_layers(params: Any) -> dict[tuple[str, ...], int]:
    return {
      name: len(leaf)
      for path, leaf in jax.tree_util.tree_leaves_with_path(params)
      if stacking.is_stacked("/".join(name := tuple(x.key for x in path)))
    }

  def mapped(fn: Callable[..., Any], stacked, *arguments: Any) -> Any:
    """Maps `fn` over the layers; stacks of equal size are mapped together."""
    if not stacked:
      return fn(*arguments)
    number = max(stacked.values())
    now = {name for name, layers in stacked.items() if layers == number}
    others = {k: v for k, v in stacked.items() if k not in now}

    def axes(tree: Any) -> Any:
      return jax.tree_util.tree_map_with_path(
        lambda path, _: 0 if parameter_of(path, dict.fromkeys(now)) else None,
        tree,
      )

    def inside(*arguments):
      return mapped(fn, others, *arguments)

    in_axes = tuple(map(axes, arguments))
    # The axes of a result depend only on its structure.
    shapes = jax.eval_shape(
      jax.vmap(inside, in_axes=in_axes, out_axes=0), *arguments
    )
    return jax.vmap(inside, in_axes=in_axes, out_axes=axes(shapes))(*arguments)

  def init(params):
    return mapped(inner.init, numbers_of_layers(params), params)

  def update(updates, state, params=None):
    return mapped(
      inner.update, numbers_of_layers(updates), updates, state, params
    )

  return optax.GradientTransformation(init, update)


@arguments.checked
def create_learning_rate_scheduler(
  factors: str = "constant * linear_warmup * rsqrt_decay",
  base_learning_rate: NonNegativeFloat = 0.5,
  warmup_steps: int = 1000,
  decay_factor: float = 0.5,
  step_offset: int = 0,
  min_learning_rate: float = 1e-8,
) -> Callable[[jax.Array | int], jax.Array]:
  """Creates a schedule from the product of its factors.

  The factors are those of T5X's public configurations.

  * `constant`: base_learning_rate.
  * `linear_warmup`: from 0 to 1 over warmup_steps.
  * `linear_decay`: base_learning_rate times the warm-up, after which it falls
    by decay_factor per step. Use it instead of the two factors above.
  * `rsqrt_decay`: 1 / sqrt(max(step, warmup_steps)).

  Args:
    factors: Names joined by `*`.
    base_learning_rate: The constant.
    warmup_steps: Steps.
    decay_factor: The fall per step; see `linear_decay`.
    step_offset: The step at which the schedule begins; steps are counted from
      pretraining step 0.
    min_learning_rate: The least learning rate that is returned.

  Returns:
    A function from a step to the learning rate, a float32 scalar.

  Raises:
    ValueError: if a value is wrong, a factor is unknown, or a factor needs a
      positive warmup_steps.
  """

  factor_fns = {
    "constant": lambda step: base_learning_rate,
    "linear_warmup": lambda step: jnp.minimum(1.0, step / warmup_steps),
    "linear_decay": lambda step: (
      base_learning_rate
      * jnp.minimum(
        step / warmup_steps, 1.0 + decay_factor * (warmup_steps - step)
      )
    ),
    "rsqrt_decay": lambda step: jnp.maximum(step, warmup_steps) ** -0.5,
  }
  names = [name.strip() for name in factors.split("*")]
  if unknown := [name for name in names if name not in factor_fns]:
    raise ValueError(
      f"Unknown learning-rate factors {unknown}; expected a product of "
      f"{list(factor_fns)}."
    )
  needs_warmup = [n for n in names if n.startswith(("linear_", "rsqrt_"))]
  if needs_warmup and warmup_steps < 1:
    raise ValueError(
      f"The factors {needs_warmup} need warmup_steps of at least 1, got "
      f"{warmup_steps}; leave them out for no warm-up."
    )

  def learning_rate_fn(step):
    step = jnp.maximum(0.0, step - step_offset)
    learning_rate = jnp.float32(1.0)
    for name in names:
      learning_rate *= factor_fns[name](step)
    return jnp.maximum(learning_rate, min_learning_rate)

  return learning_rate_fn
