"""Run checkpoints, which hold only what a run changes; Orbax reads and writes
them. What a run begins with is in `base_checkpoints`, and named here too."""

from collections.abc import Mapping, Sequence
import math
from typing import Any

from etils import epath
import jax
import orbax.checkpoint as ocp
from orbax.checkpoint import checkpoint_managers

from t5x import metrics as metrics_lib
from t5x.base_checkpoints import (
  BaseCheckpoint,
  absolute,
  find_checkpoint,
  fingerprint,
  open_checkpoint,
  save_base_checkpoint,
)
from t5x.partitioning import PjitPartitioner
from t5x.train_state import TrainState

__all__ = [
  "BaseCheckpoint",
  "Checkpointer",
  "SaveBestCheckpointer",
  "absolute",
  "find_checkpoint",
  "fingerprint",
  "open_checkpoint",
  "save_base_checkpoint",
]

_SIGN = {"max": 1, "min": -1}


class _LatestAndBest(checkpoint_managers.PreservationPolicy):
  """Keeps the latest checkpoint and those with the best scores."""

  def __init__(self, best: int, mode: str):
    self._best = best
    self._sign = _SIGN[mode]
    # Step -> score, of this attempt and those before it.
    self.scores: dict[int, float] = {}

  def should_preserve(self, checkpoints, *, context) -> Sequence[bool]:
    del context
    steps = [c.step for c in checkpoints]
    scored = sorted(
      (-self._sign * self.scores[step], step)
      for step in steps
      if step in self.scores
    )
    keep = {step for _, step in scored[: self._best]} | {steps[-1]}
    return [step in keep for step in steps]


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
      partitioner: Unused; T5X's place for it.
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
    del partitioner  # `restore_run` is told where everything goes.
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
  ) -> None:
    """Starts to write a checkpoint; training may go on meanwhile.

    Args:
      train_state: The state.
      run_info: JSON to keep with it; `evals` are the evaluations so far.
    """
    step = int(train_state.step)
    if step in self.all_steps():
      # Written when a signal came, before the evaluation that was due.
      if step not in [e["step"] for e in run_info["evals"][-1:]]:
        return
      self._manager.delete(step)
    self._manager.save(
      step,
      args=ocp.args.Composite(
        state=ocp.args.PyTreeSave(_flat(train_state)),
        run=ocp.args.JsonSave(dict(run_info)),
      ),
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
    *,
    metric_name_to_monitor: str,
    metric_mode: str = "max",
  ):
    """Opens the folder.

    Args:
      train_state: A state, or its shapes.
      partitioner: Unused; T5X's place for it.
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
    self._policy = _LatestAndBest(keep or 1, metric_mode)
    self._open(train_state, partitioner, checkpoints_dir, self._policy)

  def score(self, metrics_by_task: metrics_lib.MetricsByTask) -> float | None:
    """Returns what checkpoints are compared by.

    Raises:
      ValueError: if no metric matches, or if the score is not a number.
    """
    score = metrics_lib.monitored(metrics_by_task, self._pattern)
    if score is None or not math.isfinite(score):
      raise ValueError(
        f"The metrics that match {self._pattern!r} (BEST_METRIC) make the "
        f"score {score}, which chooses no checkpoint. The metrics are "
        f"{metrics_lib.names(metrics_by_task)}."
      )
    return score

  def save_run(self, train_state, run_info) -> None:
    self._policy.scores = {
      e["step"]: e["score"] for e in run_info["evals"] if e["score"] is not None
    }
    super().save_run(train_state, run_info)

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
