"""Checkpoints of runs, which hold only the parameters that a run changes.

Orbax reads and writes them. `base_checkpoints` reads base models; its functions
have T5X's names, and can be imported from here too.
"""

from collections.abc import Callable, Iterator, Mapping, Sequence
import contextlib
import copy
import dataclasses
import math
from typing import Any, Literal

from absl import logging
from etils import epath
import jax
import numpy as np
import orbax.checkpoint as ocp
from pydantic import PositiveInt

from t5x import metrics as metrics_lib
from t5x import multihost
from t5x.configuration import arguments
from t5x.files import digests, failures, storage
from t5x.formats import checkpoint_folder, orbax, stacking, stored_arrays
from t5x.formats.base_checkpoints import (
  BaseCheckpoint,
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
  "find_checkpoint",
  "fingerprint",
  "open_checkpoint",
  "save_base_checkpoint",
]


@dataclasses.dataclass(eq=False)
class Checkpointer:
  """Saves and restores what a run changes, and keeps the newest checkpoints.

  It opens the folder, and removes unfinished files of a killed run.

  Attributes:
    train_state: A state, or its shapes.
    partitioner: Unused, because `restore_run` gets the shardings; T5X's
      argument.
    checkpoints_dir: The run's folder; `checkpoint_<step>` folders go into it.
    keep: How many to keep; None keeps all. With 1, a damaged checkpoint has no
      older one to fall back on.
    metric: Regular expression for the `task/metric` by which evaluations are
      compared; None compares none.
    metric_mode: "max" if more is better, or "min"; None without a metric.
  """

  train_state: dataclasses.InitVar[TrainState]
  partitioner: dataclasses.InitVar[PjitPartitioner]
  checkpoints_dir: dataclasses.InitVar[str]
  keep: PositiveInt | None = None
  metric: str | None = dataclasses.field(default=None, init=False)
  metric_mode: Literal["max", "min"] | None = dataclasses.field(
    default=None, init=False
  )

  def __post_init__(self, train_state, partitioner, checkpoints_dir):
    del partitioner
    own = {"keep": self.keep, "metric_mode": self.metric_mode}
    arguments.check(type(self), own)
    self._shapes = {
      name: jax.ShapeDtypeStruct(leaf.shape, leaf.dtype)
      for name, leaf in _flat(train_state).items()
    }
    self._shapes_on_disk = stacking.shapes_apart(self._shapes)
    self._folder = checkpoint_folder.CheckpointFolder(
      storage.absolute(checkpoints_dir)
    )
    self._writer = ocp.AsyncCheckpointer(
      orbax.WithDigests(
        state=ocp.PyTreeCheckpointHandler(), run=ocp.JsonCheckpointHandler()
      )
    )
    # The step that is being written, whether it replaces another checkpoint of
    # that step, and the JSON that is kept with the state.
    self._writing: tuple[int, bool, Mapping[str, Any]] | None = None
    # The step of the latest whole checkpoint, once `find_run` has looked.
    self._good: int | None = None
    # Called before anything is renamed or deleted; raises if another run may
    # have taken the folder.
    self.check_lock: Callable[[], None] = lambda: None
    logging.get_absl_logger().addFilter(orbax.is_news)
    if jax.process_index() == 0:
      self._folder.clear_leftovers()
    multihost.wait_for_all("checkpoints opened")

  def all_steps(self) -> list[int]:
    """Returns the steps of the checkpoints, in order."""
    return self._folder.steps()

  @property
  def trained(self) -> set[str]:
    """The names of the parameters that the run trains."""
    prefix = "trainable/"
    return {
      name.removeprefix(prefix)
      for name in self._shapes
      if name.startswith(prefix)
    }

  def score(self, metrics_by_task: metrics_lib.MetricsByTask) -> float | None:
    """Returns the score by which checkpoints are compared; None without one.

    Raises:
      ValueError: if no metric matches, or if the score is not a number.
    """
    if self.metric is None:
      return None
    score = metrics_lib.monitored(metrics_by_task, self.metric)
    if score is None or not math.isfinite(score):
      raise ValueError(
        f"The metrics that match {self.metric!r} (BEST_METRIC) make the "
        f"score {score}, which chooses no checkpoint. The metrics are "
        f"{metrics_lib.names(metrics_by_task)}."
      )
    return score

  def best(self, evals: Sequence[Mapping[str, Any]]) -> Any | None:
    """Returns the evaluation with the best score, or None."""
    return next(iter(self._ranked(evals)), None)

  def _ranked(
    self, evals: Sequence[Mapping[str, Any]]
  ) -> list[Mapping[str, Any]]:
    """Sorts evaluations, the best first; ties by step."""
    scored = [e for e in evals if e["score"] is not None]
    sign = -1 if self.metric_mode == "min" else 1
    return sorted(scored, key=lambda e: (-sign * e["score"], e["step"]))

  def _kept(
    self, steps: Sequence[int], evals: Sequence[Mapping[str, Any]]
  ) -> set[int]:
    """Returns the steps to keep, given all steps in order and evaluations."""
    if self.keep is None or self.metric is None:
      return set(steps if self.keep is None else steps[-self.keep :])
    ranked = [e["step"] for e in self._ranked(evals) if e["step"] in steps]
    kept = {*ranked[: self.keep], *steps[-1:]}
    return kept if len(kept) > 1 else set(steps[-2:])

  def save_run(
    self,
    train_state: TrainState,
    run_info: Mapping[str, Any],
  ) -> None:
    """Starts to write a checkpoint while training continues.

    Args:
      train_state: The state.
      run_info: JSON to keep with it; `evals` are the evaluations so far.

    Raises:
      OSError: if this checkpoint or the previous one could not be written.
    """
    self.wait()
    step = int(train_state.step)
    # Training may change it while it is being written.
    run_info = copy.deepcopy(dict(run_info))
    if exists := step in self.all_steps():
      # A signal may have caused the existing one, before the evaluation that
      # was due, or it may be the end of a run that now resumes.
      saved = orbax.read_run_info(str(self._folder.checkpoint(step)))
      if saved["evals"][-1:] == run_info["evals"][-1:] and (
        saved.get("is_stopped", False) == run_info.get("is_stopped", False)
      ):
        return
    self._writing = step, exists, run_info
    path = (
      self._folder.replacement(step)
      if exists
      else self._folder.checkpoint(step)
    )
    with self._cleared_on_error(path):
      self._writer.save(
        path,
        args=orbax.RunItems(
          state=ocp.args.PyTreeSave(stacking.take_apart(_flat(train_state))),
          run=ocp.args.JsonSave(run_info),
        ),
      )

  @contextlib.contextmanager
  def _cleared_on_error(self, path: epath.Path) -> Iterator[None]:
    """Deletes a checkpoint that could not be written, to free the disk."""
    try:
      with failures.explained(path):
        yield
    except (OSError, ValueError):
      self._writing = None
      self.check_lock()
      if jax.process_index() == 0:
        self._folder.clear_leftovers()
      raise

  def wait(self) -> None:
    """Waits until everything is on disk, and deletes the other checkpoints.

    Raises:
      OSError: if the checkpoint could not be written; it names the folder.
        `check_lock` may raise other errors.
    """
    if self._writing is None:
      return
    step, is_replaced, run_info = self._writing
    with self._cleared_on_error(self._folder.checkpoint(step)):
      self._writer.wait_until_finished()
    self._writing = None
    self.check_lock()
    if jax.process_index() == 0:
      if is_replaced:
        self._folder.replace(step)
      self._folder.keep_only(self._kept(self.all_steps(), run_info["evals"]))
    multihost.wait_for_all("checkpoint written")

  def __enter__(self) -> "Checkpointer":
    return self

  def __exit__(self, _, error: BaseException | None, trace: object) -> None:
    """Closes it; an earlier error is raised instead of an error on closing."""
    try:
      self.close()
    except Exception as second:  # Other processes may be gone.
      if error is None:
        raise
      logging.error("A checkpoint was not finished: %s", second)

  def close(self) -> None:
    """Waits until everything is on disk, and ends the threads."""
    try:
      self.wait()
    finally:
      self._writer.close()
      logging.get_absl_logger().removeFilter(orbax.is_news)

  def find_run(self) -> Mapping[str, Any] | None:
    """Returns the `run_info` that `restore_run` will return.

    Returns:
      The facts, or None if there is no checkpoint; {} for a checkpoint that no
      run has written.

    Raises:
      ValueError: if all checkpoints are damaged.
    """
    problem, self._good = None, None
    # One process looks, and the others use its answer.
    if jax.process_index() == 0 and self.all_steps():
      try:
        self._good = self._folder.find_good()
      except ValueError as error:
        problem = str(error)
    self._good, problem = multihost.from_first_process((self._good, problem))
    if problem is not None:
      raise ValueError(problem)
    if self._good is None:
      return None
    path = str(self._folder.checkpoint(self._good))
    return orbax.read_run_info(path) if orbax.is_run(path) else {}

  def restore_run(
    self, train_state_axes: TrainState
  ) -> tuple[TrainState, Mapping[str, Any]]:
    """Reads the latest undamaged checkpoint.

    Newer, damaged checkpoints are set aside.

    Args:
      train_state_axes: Shardings, a state with one at each leaf.

    Returns:
      A state whose `trainable` and `opt_state` are restored and whose `frozen`
      is empty, and the saved `run_info`.

    Raises:
      ValueError: if all are damaged, or the arrays do not fit this run.
    """
    if (info := self.find_run()) is None or self._good is None:
      raise ValueError(f"There is no checkpoint in {self._folder.path}.")
    path = self._folder.checkpoint(self._good)
    opened = orbax.open_arrays(str(path / orbax.ITEM))
    arrays = {name: array for (name,), array in opened.items()}
    shapes = {name: array.shape for name, array in arrays.items()}
    wrong = [
      f"{name}: expected {expected}, got {got}"
      for name in sorted(self._shapes_on_disk.keys() | shapes.keys())
      if (expected := getattr(self._shapes_on_disk.get(name), "shape", None))
      != (got := shapes.get(name))
    ]
    if wrong:
      raise ValueError(
        f"{path} belongs to another run: {'; '.join(wrong[:5])}. Choose "
        "another folder."
      )
    axes = _flat(train_state_axes)
    targets = {
      name: jax.ShapeDtypeStruct(leaf.shape, leaf.dtype, sharding=axes[name])
      for name, leaf in self._shapes.items()
    }
    restored = stacking.put_together(
      stored_arrays.read_sharded(arrays, stacking.shapes_apart(targets)),
      targets,
    )
    state = train_state_axes.replace(frozen={})
    leaves = [restored[name] for name in _flat(state)]
    state = jax.tree.unflatten(jax.tree.structure(state), leaves)
    return state, info

  def read_trained(
    self, step: int
  ) -> tuple[dict[str, np.ndarray], Mapping[str, Any]] | None:
    """Reads the trained parameters to memory; all processes must call it.

    Args:
      step: The checkpoint's step.

    Returns:
      Name of the parameter -> values, and the saved `run_info`; None if there
      is no such checkpoint, or it is damaged.
    """
    path = self._folder.checkpoint(step)
    good = path.is_dir() and digests.damage(path) is None
    if not multihost.from_first_process(good):
      return None
    arrays = orbax.trained_arrays(str(path))
    return (
      {name: stored_arrays.read(array) for name, array in arrays.items()},
      orbax.read_run_info(str(path)),
    )


@dataclasses.dataclass(eq=False)
class SaveBestCheckpointer(Checkpointer):
  """Keeps the latest checkpoint and the best ones by a metric.

  If the latest is also the best, the previous one is kept to fall back on.
  `keep` is the number of best checkpoints to keep beside the latest.

  Attributes:
    metric_mode: 'max' or 'min'.
    metric_name_to_monitor: Regular expression for `task/metric` of the
      inference evaluation; see `metrics.monitored`.
  """

  metric_mode: Literal["max", "min"] = "max"  # pyright: ignore[reportIncompatibleVariableOverride]
  metric_name_to_monitor: str = dataclasses.field(kw_only=True)

  def __post_init__(self, train_state, partitioner, checkpoints_dir):
    self.metric = self.metric_name_to_monitor
    arguments.check_pattern("the metric (BEST_METRIC)", self.metric)
    super().__post_init__(train_state, partitioner, checkpoints_dir)


def _flat(train_state: TrainState) -> dict[str, Any]:
  """Names the leaves that a run changes, in the order of the tree."""
  changing = train_state.replace(frozen={})
  return {
    jax.tree_util.keystr(path, simple=True, separator="/"): leaf
    for path, leaf in jax.tree_util.tree_leaves_with_path(changing)
  }
