"""The state of a run: trainable and frozen parameters, optimizer state."""

from collections.abc import Callable, Mapping, Sequence
from typing import Any, cast

from flax import struct, traverse_util
import jax
import jax.numpy as jnp

from t5x import optimizers
from t5x.formats import int8
from t5x.partitioning import PjitPartitioner

Params = Mapping[str, Any]


def split(params: Params, trainable: Params) -> tuple[Params, Params]:
  """Splits parameters into those that train and those that are frozen.

  Args:
    params: Nested dictionary of parameters.
    trainable: The same structure, with a bool at each leaf.

  Returns:
    (trainable, frozen), nested dictionaries with disjoint leaves.
  """
  flat = traverse_util.flatten_dict(params)
  trains = traverse_util.flatten_dict(trainable)
  return (
    traverse_util.unflatten_dict({k: v for k, v in flat.items() if trains[k]}),
    traverse_util.unflatten_dict(
      {k: v for k, v in flat.items() if not trains[k]}
    ),
  )


def merge(trainable: Params, frozen: Params) -> Params:
  """Undoes `split`."""
  return traverse_util.unflatten_dict(
    traverse_util.flatten_dict(frozen) | traverse_util.flatten_dict(trainable)
  )


class TrainState(struct.PyTreeNode):
  """The state that a training step reads and writes.

  Attributes:
    trainable: The parameters that are differentiated.
    frozen: The rest.
    opt_state: The optimizer's state, for `trainable` only. It holds the step,
      counted from pretraining step 0.
    optimizer_def: The optimizer.
  """

  trainable: Params
  frozen: Params
  opt_state: optimizers.OptimizerState
  optimizer_def: optimizers.OptimizerDef | None = struct.field(
    pytree_node=False
  )

  @classmethod
  def create(
    cls, optimizer_def: optimizers.OptimizerDef | None, params: Params
  ) -> "TrainState":
    """Makes the state of step 0.

    Args:
      optimizer_def: Decides which parameters train; None for inference, where
        none do.
      params: All parameters.

    Raises:
      ValueError: if the optimizer's patterns do not fit the parameters.
    """
    if optimizer_def is None:
      state = optimizers.OptimizerState(jnp.zeros((), jnp.int32), ())
      return cls({}, params, state, None)
    trainable, frozen = split(params, optimizer_def.trainable(params))
    if int8.is_used(trainable):
      raise ValueError(
        "Expected trainable parameters to be floats, got int8: to train all "
        "weights, leave gin/models/int8.gin out."
      )
    return cls(
      trainable, frozen, optimizer_def.init_state(trainable), optimizer_def
    )

  @property
  def step(self) -> jax.Array:
    return self.opt_state.step

  @property
  def params(self) -> Params:
    return merge(self.trainable, self.frozen)

  def last_rate(
    self, learning_rate_fn: Callable[[jax.Array], jax.Array]
  ) -> dict[str, float]:
    """Returns the learning rate of the last step, if the optimizer used it."""
    assert self.optimizer_def is not None, "a state for inference"
    if self.optimizer_def.has_own_rate:
      return {}
    return {"learning_rate": float(learning_rate_fn(self.step - 1))}

  def shardings(self, of_param: Params, replicated: Any) -> "TrainState":
    """Returns the sharding of each leaf.

    Args:
      of_param: Sharding of every parameter.
      replicated: The sharding of leaves that are not shaped like a parameter.

    Returns:
      A state with the same structure, of shardings.
    """
    flat = traverse_util.flatten_dict(of_param)
    trains = traverse_util.flatten_dict(self.trainable)

    def like(params: Params) -> Params:
      paths = traverse_util.flatten_dict(params)
      return traverse_util.unflatten_dict({k: flat[k] for k in paths})

    def of_leaf(path: Sequence[Any], leaf: jax.Array) -> Any:
      # A leaf belongs to a parameter if it has the same path and shape, like a
      # second moment. The step, counters and factored moments belong to none.
      name = optimizers.parameter_of(path, trains)
      if name is None or trains[name].shape != leaf.shape:
        return replicated
      return flat[name]

    return self.replace(
      trainable=like(self.trainable),
      frozen=like(self.frozen),
      opt_state=jax.tree_util.tree_map_with_path(of_leaf, self.opt_state),
    )


def partition_update(
  partitioner: PjitPartitioner,
  update: Callable[..., tuple[TrainState, Any]],
  axes: TrainState,
  *in_axes: Any,
) -> jax.stages.Wrapped:
  """Compiles a function whose new state takes the place of the old one.

  The frozen parameters are not donated, because other code may use the same
  arrays.

  Args:
    partitioner: Compiles for its mesh.
    update: (state, ...) -> (state, replicated results).
    axes: Shardings of the state.
    *in_axes: Shardings of the other arguments.
  """
  own_axes = axes.replace(frozen={})

  def update_own(own, frozen, *args):
    state, results = update(own.replace(frozen=frozen), *args)
    return state.replace(frozen={}), results

  compiled = partitioner.partition(
    update_own,
    in_axis_resources=(own_axes, axes.frozen, *in_axes),
    out_axis_resources=(own_axes, partitioner.sharding()),
    donate_argnums=0,
  )

  def call(state, *args):
    own, results = compiled(state.replace(frozen={}), state.frozen, *args)
    return own.replace(frozen=state.frozen), results

  def trace(state, *args):
    return compiled.trace(state.replace(frozen={}), state.frozen, *args)

  partitioned = cast(jax.stages.Wrapped, call)
  partitioned.trace = trace
  return partitioned


def describe(state: TrainState, axes: TrainState) -> tuple[str, dict[str, int]]:
  """Lists the parameters, and counts the trainable and the frozen ones.

  Args:
    state: The state.
    axes: The state's shardings.
  """
  lines, counts = [], {}
  for group in ("trainable", "frozen"):
    params = traverse_util.flatten_dict(getattr(state, group), sep="/")
    shardings = traverse_util.flatten_dict(getattr(axes, group), sep="/")
    lines += [
      f"{group:9} {name:60} {x.shape!s:16} {x.dtype!s:9} {shardings[name].spec}"
      for name, x in sorted(params.items())
    ]
    counts[group] = sum(int(x.size) for x in params.values())
  total = sum(counts.values())
  lines.append(
    f"{counts['trainable']:,} of {total:,} parameters train "
    f"({100 * counts['trainable'] / total:.5f}%)."
  )
  return "\n".join(lines) + "\n", counts
