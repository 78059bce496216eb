"""Base checkpoints, which hold a model, and run checkpoints, which hold only
what a run changes. Orbax reads and writes both."""

from collections.abc import Mapping, Sequence
import dataclasses
import hashlib
import re
from typing import Any, cast

from etils import epath
from flax import traverse_util
import jax
from jax.sharding import NamedSharding, PartitionSpec
import ml_dtypes
import numpy as np
import orbax.checkpoint as ocp
from orbax.checkpoint import checkpoint_managers

from t5x import metrics as metrics_lib
from t5x.partitioning import PjitPartitioner
from t5x.train_state import Params, TrainState

_STEP_FOLDER = re.compile(r"checkpoint_(\d+)")
# Values of each axis that a fingerprint looks at.
_FINGERPRINT_BLOCK = 16
# How a run checkpoint names the parameters that it holds.
_TRAINABLE = "trainable/"


def find_checkpoint(path: str, step: int | None = None) -> str:
  """Finds a checkpoint folder.

  Args:
    path: A folder `checkpoint_<step>`, or the folder that holds some.
    step: Which of them; the newest by default.

  Returns:
    The path of the folder `checkpoint_<step>`.

  Raises:
    ValueError: if there is none.
  """
  folder = epath.Path(path)
  if not folder.is_dir():
    parent = folder.parent
    there = sorted(p.name for p in parent.iterdir()) if parent.is_dir() else []
    raise ValueError(
      f"No checkpoint at {path}: expected a folder checkpoint_<step> or one "
      f"that holds such folders. In {parent}: {', '.join(there) or 'nothing'}."
    )
  if step is None and _STEP_FOLDER.fullmatch(folder.name):
    return str(folder)
  steps = {
    int(match[1]): child
    for child in folder.iterdir()
    if (match := _STEP_FOLDER.fullmatch(child.name))
  }
  if not steps or (step is not None and step not in steps):
    raise ValueError(
      f"No checkpoint_{'<step>' if step is None else step} in {path}; steps "
      f"there: {sorted(steps) or 'none'}."
    )
  return str(steps[max(steps) if step is None else step])


def fingerprint(params: Params) -> str:
  """Identifies a model by values of every parameter, rounded to bfloat16.

  Args:
    params: Nested dictionary of arrays, of whatever dtype and sharding.

  Returns:
    32 hexadecimal digits.
  """
  flat: dict[str, Any] = traverse_util.flatten_dict(params, sep="/")
  blocks = {
    name: array[(slice(_FINGERPRINT_BLOCK),) * array.ndim]
    for name, array in flat.items()
    if not isinstance(array, jax.Array)
  }
  on_devices = {k: v for k, v in flat.items() if isinstance(v, jax.Array)}
  if on_devices:
    some = next(iter(on_devices.values())).sharding
    blocks |= jax.device_get(
      jax.jit(
        lambda arrays: {
          name: array[(slice(_FINGERPRINT_BLOCK),) * array.ndim]
          for name, array in arrays.items()
        },
        out_shardings=NamedSharding(some.mesh, PartitionSpec())
        if isinstance(some, NamedSharding)
        else None,
      )(on_devices)
    )
  digest = hashlib.sha256()
  for name in sorted(flat):
    digest.update(f"{name} {flat[name].shape}\n".encode())
    digest.update(np.asarray(blocks[name], ml_dtypes.bfloat16).tobytes())
  return digest.hexdigest()[:32]


def save_base_checkpoint(
  directory: str, step: int, params: Params, metadata: Mapping[str, Any]
) -> str:
  """Writes a model, with its fingerprint.

  Args:
    directory: The folder to put `checkpoint_<step>` into.
    step: Pretraining steps.
    params: Nested dictionary of arrays.
    metadata: What else to keep; JSON.

  Returns:
    The path of the checkpoint.
  """
  path = epath.Path(directory).resolve() / f"checkpoint_{step}"
  with ocp.Checkpointer(ocp.PyTreeCheckpointHandler()) as checkpointer:
    checkpointer.save(
      path,
      args=ocp.args.PyTreeSave(
        {"target": params, "state": {"step": np.int32(step)}}
      ),
      custom_metadata={**metadata, "fingerprint": fingerprint(params)},
      force=True,
    )
  return str(path)


@dataclasses.dataclass(frozen=True)
class BaseCheckpoint:
  """A model on disk, read parameter by parameter.

  Attributes:
    path: As the user gave it.
    step: Steps, counted from pretraining step 0.
    shapes: What it holds: path of the parameter -> shape and dtype.
    metadata: What `save_base_checkpoint` was given, and the fingerprint.
    stored_as: Path of the parameter -> the Orbax folder and the keys there.
  """

  path: str
  step: int
  shapes: Mapping[str, jax.ShapeDtypeStruct]
  metadata: Mapping[str, Any]
  stored_as: Mapping[str, tuple[str, tuple[str, ...]]]

  @property
  def fingerprint(self) -> str:
    """Identity of the weights; a model that was trained here is read for it."""
    if "fingerprint" in self.metadata:
      return self.metadata["fingerprint"]
    host = jax.sharding.SingleDeviceSharding(
      jax.local_devices(backend="cpu")[0]
    )
    return fingerprint(
      traverse_util.unflatten_dict(
        self.read(
          {
            name: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=host)
            for name, x in self.shapes.items()
          }
        ),
        sep="/",
      )
    )

  def read(
    self, targets: Mapping[str, jax.ShapeDtypeStruct]
  ) -> dict[str, jax.Array]:
    """Reads some parameters to where they belong.

    Args:
      targets: Path of the parameter -> dtype and sharding to give it.

    Returns:
      Path of the parameter -> array. Each host reads its shards only.
    """
    arrays = {}
    for folder in sorted({self.stored_as[name][0] for name in targets}):
      keys = {
        name: self.stored_as[name][1]
        for name in targets
        if self.stored_as[name][0] == folder
      }
      restored = traverse_util.flatten_dict(
        _restore(
          folder,
          traverse_util.unflatten_dict(
            {key: targets[name] for name, key in keys.items()}
          ),
        )
      )
      arrays |= {name: restored[key] for name, key in keys.items()}
    return arrays


def _restore(folder: str, item: Any) -> Any:
  """Reads the part of an Orbax folder that `item` names."""
  with ocp.Checkpointer(ocp.PyTreeCheckpointHandler()) as checkpointer:
    return checkpointer.restore(
      epath.Path(folder),
      args=ocp.args.PyTreeRestore(
        item=item,
        restore_args=ocp.checkpoint_utils.construct_restore_args(item),
        partial_restore=True,
      ),
    )


def _metadata(folder: str) -> Any:
  with ocp.Checkpointer(ocp.PyTreeCheckpointHandler()) as checkpointer:
    return checkpointer.metadata(epath.Path(folder))


def open_checkpoint(path: str) -> BaseCheckpoint:
  """Opens a model: one that `save_base_checkpoint` wrote, or a run's.

  Args:
    path: As for `find_checkpoint`. The checkpoint of a run is its base model,
      with what the run changed.

  Raises:
    ValueError: if there is none, or it is of another format.
  """
  found = str(epath.Path(find_checkpoint(path)).resolve())
  if (epath.Path(found) / "run").is_dir():
    return _open_run_checkpoint(path, found)
  try:
    metadata = _metadata(found)
    target = traverse_util.flatten_dict(metadata.item_metadata.tree["target"])
    step = _restore(found, {"state": {"step": 0}})["state"]["step"]
  except (OSError, KeyError, AttributeError, TypeError) as e:
    raise ValueError(
      f"{found} is no base checkpoint: expected an Orbax folder with target "
      f"and state/step, as save_base_checkpoint writes it ({e})."
    ) from e
  return BaseCheckpoint(
    path=path,
    step=int(step),
    shapes={
      "/".join(key): jax.ShapeDtypeStruct(x.shape, x.dtype)
      for key, x in target.items()
    },
    metadata=metadata.custom_metadata,
    stored_as={"/".join(key): (found, ("target", *key)) for key in target},
  )


def _open_run_checkpoint(path: str, found: str) -> BaseCheckpoint:
  with ocp.Checkpointer(ocp.JsonCheckpointHandler()) as checkpointer:
    run_info = checkpointer.restore(epath.Path(found) / "run")
  base_path = cast(dict[str, Any], run_info)["base_path"]
  folder = str(epath.Path(found) / "state")
  trained = {
    name.removeprefix(_TRAINABLE): x
    for name, x in _metadata(folder).item_metadata.tree.items()
    if name.startswith(_TRAINABLE)
  }
  base = open_checkpoint(base_path) if base_path else None
  return BaseCheckpoint(
    path=path,
    step=int(epath.Path(found).name.removeprefix("checkpoint_")),
    shapes={
      **(base.shapes if base else {}),
      **{
        name: jax.ShapeDtypeStruct(x.shape, x.dtype)
        for name, x in trained.items()
      },
    },
    metadata={},
    stored_as={
      **(base.stored_as if base else {}),
      **{name: (folder, (_TRAINABLE + name,)) for name in trained},
    },
  )


_SIGN = {"max": 1, "min": -1}


class _LatestAndBest(checkpoint_managers.PreservationPolicy):
  """Keeps the latest checkpoint and those with the best scores."""

  def __init__(self, best: int, mode: str):
    self._best = best
    self._sign = _SIGN[mode]

  def should_preserve(self, checkpoints, *, context) -> Sequence[bool]:
    del context
    scored = sorted(
      (-self._sign * c.metrics["score"], c.step)
      for c in checkpoints
      if c.metrics
    )
    keep = {step for _, step in scored[: self._best]} | {checkpoints[-1].step}
    return [c.step in keep for c in checkpoints]


class Checkpointer:
  """Saves and restores what a run changes, and keeps the newest."""

  def __init__(
    self,
    train_state: TrainState,
    partitioner: PjitPartitioner,
    checkpoints_dir: str,
    keep: int | None = None,
  ):
    """Opens the folder.

    Args:
      train_state: A state, or its shapes.
      partitioner: Where to restore to.
      checkpoints_dir: The run's folder; `checkpoint_<step>` folders go into it.
      keep: How many to keep; None keeps all.
    """
    self._open(
      train_state,
      partitioner,
      checkpoints_dir,
      checkpoint_managers.LatestN(keep),
    )

  def _open(self, train_state, partitioner, checkpoints_dir, policy) -> None:
    self._partitioner = partitioner
    self._shapes = {
      name: jax.ShapeDtypeStruct(leaf.shape, leaf.dtype)
      for name, leaf in _flat(train_state).items()
    }
    self._manager = ocp.CheckpointManager(
      epath.Path(checkpoints_dir).resolve(),
      item_handlers={
        "state": ocp.PyTreeCheckpointHandler(),
        "run": ocp.JsonCheckpointHandler(),
      },
      options=ocp.CheckpointManagerOptions(
        step_prefix="checkpoint",
        preservation_policy=policy,
        save_root_metadata=False,
        cleanup_tmp_directories=True,
      ),
    )

  def all_steps(self) -> list[int]:
    return sorted(self._manager.all_steps())

  def latest_step(self) -> int | None:
    return self._manager.latest_step()

  def score(self, metrics_by_task: metrics_lib.MetricsByTask) -> float | None:
    """Returns what checkpoints are compared by, or None."""
    del metrics_by_task
    return None

  def best(self, evals: Sequence[Mapping[str, Any]]) -> Any | None:
    """Returns the evaluation with the best score, or None."""
    del evals
    return None

  def save_run(
    self,
    train_state: TrainState,
    run_info: Mapping[str, Any],
    score: float | None = None,
  ) -> None:
    """Starts to write a checkpoint; training may go on meanwhile.

    Args:
      train_state: The state.
      run_info: JSON to keep with it.
      score: Of this very state, if it was evaluated.
    """
    step = int(train_state.step)
    if step in self.all_steps():
      # Written when a signal came, before the evaluation that was due.
      if score is None:
        return
      self._manager.delete(step)
    self._manager.save(
      step,
      args=ocp.args.Composite(
        state=ocp.args.PyTreeSave(_flat(train_state)),
        run=ocp.args.JsonSave(dict(run_info)),
      ),
      metrics=None if score is None else {"score": score},
      force=True,
    )

  def restore_run(
    self, train_state_axes: TrainState
  ) -> tuple[TrainState, Mapping[str, Any]]:
    """Reads the latest checkpoint.

    Args:
      train_state_axes: Shardings, a state with one at each leaf.

    Returns:
      A state whose `trainable` and `opt_state` are restored and whose `frozen`
      is empty, and the saved `run_info`.

    Raises:
      ValueError: if its arrays are not those of this run.
    """
    step = self.latest_step()
    assert step is not None, "there is a checkpoint"
    found = self._manager.item_metadata(step)["state"].tree
    shapes = {name: tuple(leaf.shape) for name, leaf in found.items()}
    wrong = [
      f"{name}: expected {expected}, got {got}"
      for name in sorted(self._shapes.keys() | shapes.keys())
      if (expected := getattr(self._shapes.get(name), "shape", None))
      != (got := shapes.get(name))
    ]
    if wrong:
      raise ValueError(
        f"{self._manager.directory}/checkpoint_{step} is of another run: "
        f"{'; '.join(wrong[:5])}. Choose another MODEL_DIR."
      )
    axes = _flat(train_state_axes)
    item = {
      name: jax.ShapeDtypeStruct(leaf.shape, leaf.dtype, sharding=axes[name])
      for name, leaf in self._shapes.items()
    }
    restored = self._manager.restore(
      step,
      args=ocp.args.Composite(
        state=ocp.args.PyTreeRestore(
          item=item,
          restore_args=ocp.checkpoint_utils.construct_restore_args(item),
        ),
        run=ocp.args.JsonRestore(),
      ),
    )
    state = train_state_axes.replace(frozen={})
    return (
      jax.tree.unflatten(
        jax.tree.structure(state),
        [restored["state"][name] for name in _flat(state)],
      ),
      restored["run"],
    )

  def wait(self) -> None:
    """Waits until everything is on disk."""
    self._manager.wait_until_finished()

  def close(self) -> None:
    self._manager.close()


class SaveBestCheckpointer(Checkpointer):
  """Keeps the latest checkpoint and the best ones by a metric."""

  def __init__(
    self,
    train_state: TrainState,
    partitioner: PjitPartitioner,
    checkpoints_dir: str,
    keep: int | None = None,
    metric_name_to_monitor: str = "train/accuracy",
    metric_mode: str = "max",
  ):
    """Opens the folder.

    Args:
      train_state: A state, or its shapes.
      partitioner: Where to restore to.
      checkpoints_dir: The run's folder.
      keep: How many of the best to keep beside the latest; 1 if None.
      metric_name_to_monitor: Regular expression for `task/metric` of the
        inference evaluation; see `metrics.monitored`.
      metric_mode: 'max' or 'min'.
    """
    if metric_mode not in _SIGN:
      raise ValueError(f"Expected metric_mode max or min, got {metric_mode!r}.")
    self._pattern = metric_name_to_monitor
    self._mode = metric_mode
    self._open(
      train_state,
      partitioner,
      checkpoints_dir,
      _LatestAndBest(keep or 1, metric_mode),
    )

  def score(self, metrics_by_task: metrics_lib.MetricsByTask) -> float | None:
    return metrics_lib.monitored(metrics_by_task, self._pattern)

  def best(self, evals: Sequence[Mapping[str, Any]]) -> Any | None:
    scored = [e for e in evals if e["score"] is not None]
    sign = _SIGN[self._mode]
    # Of equals, the earlier: training on brought nothing.
    return max(
      scored, key=lambda e: (sign * e["score"], -e["step"]), default=None
    )


def _flat(train_state: TrainState) -> dict[str, Any]:
  """Names the leaves that a run changes, in the order of the tree."""
  changing = train_state.replace(frozen={})
  return {
    jax.tree_util.keystr(path, simple=True, separator="/"): leaf
    for path, leaf in jax.tree_util.tree_leaves_with_path(changing)
  }
