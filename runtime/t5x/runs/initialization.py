"""The first state of a run: from initialisers, a base checkpoint, or both."""

from collections.abc import Callable, Mapping, Sequence
import dataclasses
import functools
from typing import Any

from absl import logging
from etils import epath
from flax import traverse_util
from flax.linen import partitioning as flax_partitioning
import jax
import numpy as np

from t5x import checkpoints
from t5x import train_state as train_state_lib
from t5x.files import run_lock
from t5x.formats import int8, stacking
from t5x.partitioning import PjitPartitioner
from t5x.train_state import Params, TrainState
from t5x.utils import RestoreCheckpointConfig


class TrainStateInitializer:
  """Makes a state from scratch, from a base checkpoint, or from both."""

  def __init__(
    self,
    optimizer_def: Any,
    init_fn: Callable[..., Params],
    input_shapes: Mapping[str, tuple[int, ...]],
    partitioner: PjitPartitioner,
  ):
    """Computes shapes and shardings; no array is made yet.

    Args:
      optimizer_def: Decides which parameters train.
      init_fn: `EncoderDecoderModel.get_initial_variables`.
      input_shapes: Shapes of a batch.
      partitioner: Places parameters on the devices.

    Raises:
      ValueError: if a logical axis has no rule, the mesh cannot divide a
        parameter, or the optimizer's patterns do not fit.
    """
    self._optimizer_def = optimizer_def
    self._partitioner = partitioner
    self._init = jax.jit(lambda rng: init_fn(rng, input_shapes))
    # Called as in `_initial`, so that one trace serves both.
    traced = partitioner.partition(self._init).trace(jax.random.key(0))
    variables = jax.tree.map(
      lambda x: jax.ShapeDtypeStruct(x.shape, x.dtype), traced.out_info
    )
    self.param_shapes: dict[str, Any] = traverse_util.flatten_dict(
      variables["params"], sep="/"
    )
    param_axes = partitioner.shardings_of(
      flax_partitioning.get_axis_names(variables["params_axes"])
    )
    self._axes = traverse_util.flatten_dict(param_axes, sep="/")
    self._check_divided()
    self.train_state_shapes: TrainState = jax.eval_shape(
      lambda params: TrainState.create(optimizer_def, params),
      variables["params"],
    )
    self.train_state_axes = self.train_state_shapes.shardings(
      param_axes, partitioner.sharding()
    )

  def _check_divided(self) -> None:
    """Raises ValueError for a parameter that the mesh cannot divide."""
    for name, shape in self.param_shapes.items():
      for size, axis in zip(shape.shape, self._axes[name].spec, strict=False):
        if size % (parts := self._partitioner.mesh.shape.get(axis, 1)):
          raise ValueError(
            f"{name} of shape {shape.shape} cannot be divided into {parts} "
            f"along its axis of {size}: choose a NUM_PARTITIONS "
            "(partitioning.PjitPartitioner.num_partitions) that divides it."
          )

  def _initial(self, rng: jax.Array, names: Sequence[str]) -> dict[str, Any]:
    """Runs the initialisers of some parameters."""

    def init(rng):
      params = traverse_util.flatten_dict(self._init(rng)["params"], sep="/")
      return {name: params[name] for name in names}

    return self._partitioner.partition(
      init, out_axis_resources={name: self._axes[name] for name in names}
    )(rng)

  @functools.cached_property
  def create_opt_state(self) -> jax.stages.Wrapped:
    """Makes a function for the optimizer's state at step 0."""
    return self._partitioner.partition(
      lambda params: TrainState.create(self._optimizer_def, params).opt_state,
      out_axis_resources=self.train_state_axes.opt_state,
    )

  def _state(self, params: Mapping[str, Any], step: int) -> TrainState:
    """Makes a state from parameters that are already on their devices."""
    nested = traverse_util.unflatten_dict(params, sep="/")
    opt_state = self.create_opt_state(nested)
    trainable, frozen = {}, nested
    if self._optimizer_def is not None:
      trains = self._optimizer_def.trainable(nested)
      trainable, frozen = train_state_lib.split(nested, trains)
    opt_state = opt_state.replace(
      step=jax.device_put(np.int32(step), self.train_state_axes.opt_state.step)
    )
    return TrainState(trainable, frozen, opt_state, self._optimizer_def)

  def from_scratch(self, init_rng: jax.Array) -> TrainState:
    """Initialises everything."""
    return self._state(self._initial(init_rng, list(self.param_shapes)), 0)

  def from_base_model(
    self, cfg: RestoreCheckpointConfig, init_rng: jax.Array | None = None
  ) -> tuple[TrainState, checkpoints.BaseCheckpoint]:
    """Reads a base checkpoint, and initialises parameters that it lacks.

    Args:
      cfg: The checkpoint, and the parameters not to read from it.
      init_rng: PRNG key for the initialised parameters.

    Returns:
      The state, whose step is the checkpoint's, and the checkpoint.

    Raises:
      ValueError: if the checkpoint and the model do not have the same
        parameters. The message names them.
    """
    if cfg.path is None:
      raise ValueError("Give INITIAL_CHECKPOINT_PATH: the base checkpoint.")
    base = cfg.checkpoint or checkpoints.open_checkpoint(cfg.path)
    folder = epath.Path(base.found).parent
    if holder := run_lock.find_holder(str(folder)):
      logging.warning(
        "%s is being trained by %s. Its checkpoint of step %d is read; the run "
        "will write others, and may delete this one meanwhile.",
        folder,
        holder,
        base.step,
      )
    wanted = map(cfg.source, self._shapes_on_disk)
    base = int8.held_by(base, {x for x in wanted if x is not None})
    sources = self._sources(base, cfg)
    params = self._read(base, cfg, sources)
    is_whole = sources == {name: name for name in base.arrays}
    if is_whole and "fingerprint" not in base.metadata:
      # In T5X's format 3, the fingerprint would need a second read of all.
      found = {"fingerprint": checkpoints.fingerprint(params)}
      base = dataclasses.replace(base, metadata={**base.metadata, **found})
    if missing := [name for name in self.param_shapes if name not in params]:
      if not cfg.fallback_to_scratch or init_rng is None:
        raise ValueError(
          f"{', '.join(missing[:10])} would come from initialisers, but "
          "fallback_to_scratch is off or no seed is given."
        )
      logging.info("From initialisers: %s.", ", ".join(missing))
      params |= self._initial(init_rng, missing)
    return self._state(params, base.step), base

  def _sources(
    self, base: checkpoints.BaseCheckpoint, cfg: RestoreCheckpointConfig
  ) -> dict[str, str]:
    """Maps parameters to their names in a checkpoint, which must fit."""
    sources = {
      name: source
      for name in self._shapes_on_disk
      if (source := cfg.source(name)) is not None
    }
    if ignored := [
      name
      for name in base.arrays
      if name in self._shapes_on_disk and name not in sources
    ]:
      logging.warning(
        "%s has %s, which are not read: the assignment_map takes them from "
        "initialisers.",
        base.path,
        ", ".join(ignored[:5]),
      )
    absent = [
      f"{name} is not in the checkpoint"
      + ("" if source == name else f" as {source}")
      for name, source in sources.items()
      if source not in base.arrays
    ] + [
      f"{name} of the checkpoint is not in the model"
      for name in base.arrays
      if name not in self._shapes_on_disk and name not in sources.values()
    ]
    wrong = [
      f"{name} has shape {base.arrays[source].shape}, expected {shape}"
      for name, source in sources.items()
      if source in base.arrays
      and base.arrays[source].shape
      != (shape := self._shapes_on_disk[name].shape)
    ]
    if problems := absent + wrong:
      message = (
        f"{base.path} does not fit the model: {len(problems)} differences. "
        f"{'; '.join(problems[:10])}."
      )
      if cfg.assignment_map is None and len(absent) == len(problems):
        message += (
          " A method's parameters are in the checkpoint of the run that "
          "trained them: CHECKPOINT_PATH may be its folder."
        )
      if wrong or cfg.strict:
        raise ValueError(message)
      logging.warning(message)
    return {k: v for k, v in sources.items() if v in base.arrays}

  @functools.cached_property
  def _shapes_on_disk(self) -> dict[str, jax.ShapeDtypeStruct]:
    return stacking.shapes_apart(self.param_shapes)

  def _read(
    self,
    base: checkpoints.BaseCheckpoint,
    cfg: RestoreCheckpointConfig,
    sources: Mapping[str, str],
  ) -> dict[str, jax.Array]:
    """Reads the parameters that have a source for every layer."""
    trained = traverse_util.flatten_dict(
      self.train_state_shapes.trainable, sep="/"
    )
    targets, names = {}, []
    for name, shape in self.param_shapes.items():
      parts = list(stacking.shapes_apart({name: shape}))
      if missing := [part for part in parts if part not in sources]:
        if len(missing) < len(parts):
          raise ValueError(
            f"Expected a source for every layer of {name}, or for none, "
            "because its layers are scanned; got none for "
            f"{', '.join(missing[:3])}. Bind "
            "network.T5Config.scan_layers = False."
          )
        continue
      source = sources[parts[0]]
      # Parameters that train, or were trained, keep their dtype, float32: small
      # updates would be lost in bfloat16.
      if name in trained:
        dtype = trained[name].dtype
      elif shape.dtype == np.int8:
        dtype = shape.dtype
      elif source in base.metadata.get("trained", ()):
        dtype = base.arrays[source].dtype
      else:
        dtype = cfg.dtype or base.arrays[source].dtype
      targets[name] = jax.ShapeDtypeStruct(
        shape.shape, dtype, sharding=self._axes[name]
      )
      names += parts
    apart = stacking.shapes_apart(targets)
    arrays: dict[str, jax.Array] = {}
    while left := [name for name in names if name not in arrays]:
      # Parameters that share a source get separate arrays.
      once = {sources[name]: name for name in left}
      read = base.read({source: apart[x] for source, x in once.items()})
      arrays |= {once[source]: read.pop(source) for source in once}
    return stacking.put_together(arrays, targets)
