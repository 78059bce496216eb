"""The start of a run: at its base model, or where it was stopped."""

from collections.abc import Mapping
import dataclasses
import os
import secrets
from typing import Any

from etils import epath
import jax

from t5x import checkpoints, multihost
from t5x.configuration import identity
from t5x.files import safe_files
from t5x.formats import checkpoint_folder, int8
from t5x.runs import initialization
from t5x.runs.plan import Plan
from t5x.train_state import TrainState


@dataclasses.dataclass
class RunInfo:
  """The facts of a run that its checkpoints hold beside the state.

  Attributes:
    task: The task or mixture that it trains on.
    first_step: The step that the run began with.
    base: Path and fingerprint of the base model, if there is one.
    base_fingerprint: Fingerprint of the frozen parameters, if there are any.
    seed: The seed of initialisers and dropout.
    shuffle_seed: The seed of the order of the training examples.
    evals: The inference evaluations so far; the loop adds its own.
    acted: Mode -> step and metrics of each execution of its actions, unless
      `evals` has them; the loop adds its own.
    is_stopped: Whether an action ended the run at this checkpoint.
    seconds: The time that the run took so far.
  """

  task: str
  first_step: int
  base: dict[str, Any] | None
  base_fingerprint: str | None
  seed: int
  shuffle_seed: int
  evals: list[dict[str, Any]] = dataclasses.field(default_factory=list)
  acted: dict[str, list[dict[str, Any]]] = dataclasses.field(
    default_factory=dict
  )
  is_stopped: bool = False
  seconds: float = 0.0

  def is_evaluated(self, step: int) -> bool:
    """Returns whether the state of `step`, the current one, was evaluated."""
    return bool(self.evals) and self.evals[-1]["step"] == step

  def resumed(self, saved: Mapping[str, Any], step: int) -> "RunInfo":
    """Adds the facts that the run's checkpoint at a step has `saved`."""
    past = ("first_step", "evals", "acted", "is_stopped", "seconds")
    # Older checkpoints lack some fields.
    known = {name: saved[name] for name in past if name in saved}
    info = dataclasses.replace(self, **known)
    if "TRAIN_EVAL" in info.acted and not info.is_evaluated(step):
      # An evaluation of only the loss is repeated.
      info.acted["TRAIN_EVAL"] = [
        x for x in info.acted["TRAIN_EVAL"] if x["step"] < step
      ]
    return info


class Earlier:
  """The run that a folder has already, and how its settings differ."""

  def __init__(self, plan: Plan, record: Mapping[str, Any]):
    """Checks that a run may begin or resume in its existing folder.

    If the earlier run saved no step, any run may take over the folder.

    Args:
      plan: The new run.
      record: The record of the earlier run; {} without one.

    Raises:
      ValueError: if the folder has a run with other settings, with their names,
        old and new values, or is damaged.
    """
    self._plan, self._record = plan, record
    # The new settings, and the earlier changes, as in a record.
    self._differences: list[identity.Difference] = []
    self._changes: list[dict[str, Any]] = []
    folder = plan.model_dir
    saved = checkpoint_folder.CheckpointFolder(epath.Path(folder))
    if plan.configuration is None or saved.is_empty():
      return
    if not (before := identity.read(folder)):
      return
    settings, self._changes = before
    self._differences = identity.check_same_run(
      settings,
      plan.configuration,
      folder,
      is_evaluated=bool(record.get("evals")),
    )
    if record.get("step") is not None and record.get("steps"):
      plan.last_step(record["steps"]["first"], record["step"])

  def write_settings(self, step: int) -> list[dict[str, Any]]:
    """Writes the settings, and returns their changes for the record.

    Args:
      step: The step from which the settings hold.
    """
    changes = [
      *self._changes,
      *(
        {"step": step, "name": x.name, "old": x.old, "new": x.new}
        for x in self._differences
      ),
    ]
    configuration = self._plan.configuration
    if configuration is not None and jax.process_index() == 0:
      safe_files.write(
        os.path.join(self._plan.model_dir, identity.FILE),
        identity.dump(configuration, changes),
      )
    return changes

  def ending(
    self, step: int, is_stopped: bool, last_step: int, is_done: bool
  ) -> tuple[str | None, bool]:
    """Returns the status of a run that has ended, and whether it is recorded.

    Args:
      step: The step of the run's last good checkpoint.
      is_stopped: Whether an action ended the run at that step.
      last_step: The step at which the run should end.
      is_done: Whether the last step was done and evaluated.

    Returns:
      "finished", "stopped" by an action, or None if there is something left to
      do: more steps or other settings resume a stopped run. A run that was
      killed at its end has no record of it; if it did its last step, it resumes
      there, because the evaluation of that step may be missing.

    Raises:
      ValueError: if the run is over, but had other settings.
    """
    # Without a configuration, only the length of a run is known.
    length = (self._record.get("steps") or {}).get("last", last_step)
    if is_stopped and not self._differences and length == last_step:
      status = "stopped"
    elif is_done and self._record.get("status") == "finished":
      status = "finished"
    else:
      return None, False
    is_recorded = self._record.get("status") == status
    if is_recorded and self._differences:
      raise ValueError(
        f"{self._plan.model_dir} is over, {status} at step {step}, with "
        "other settings, there -> now: "
        f"{identity.describe(self._differences)}. Give more steps "
        "(TRAIN_STEPS or TRAIN_STEPS_RELATIVE), or choose another folder."
      )
    return status, is_recorded and self._record.get("step") == step


def choose_seed(
  given: int | None, run_info: Mapping[str, Any] | None, name: str
) -> int:
  """Returns a seed, the same in all processes.

  Args:
    given: The seed of the plan, or None.
    run_info: The facts in the run's newest whole checkpoint, if there is one.
    name: The seed's name in `run_info`; without a checkpoint, it is drawn.
  """
  if given is not None:
    return given
  drawn = (run_info or {}).get(name, secrets.randbits(31))
  return int(multihost.from_first_process(drawn))


def restore(
  plan: Plan,
  initializer: initialization.TrainStateInitializer,
  checkpointer: checkpoints.Checkpointer,
  is_new: bool,
  seeds: tuple[int, int],
) -> tuple[TrainState, checkpoints.BaseCheckpoint | None, RunInfo]:
  """Reads the base model, and the run's latest checkpoint.

  Args:
    plan: The plan of the run.
    initializer: Reads the base model.
    checkpointer: Reads the checkpoint.
    is_new: Whether the run has no checkpoint.
    seeds: Seeds of initialisers and dropout, and of the order of the data.

  Returns:
    The state, the base model, and the facts of the run.

  Raises:
    ValueError: if the run's checkpoint has another base model or task.
  """
  cfg, base = plan.checkpoint_cfg.restore, None
  init_rng, _ = plan.rngs(seeds[0])
  if cfg is not None and cfg.path is not None:
    state, base = initializer.from_base_model(cfg, init_rng)
  else:
    state = initializer.from_scratch(init_rng)
  info = RunInfo(
    plan.train_dataset_cfg.name,
    int(state.step),
    base and {"path": base.found, "fingerprint": base.fingerprint},
    _frozen_fingerprint(state, base),
    *seeds,
  )
  if is_new:
    return state, base, info
  # Trainable parameters are read again, so devices need not hold them twice.
  frozen = state.frozen
  del state
  state, saved = checkpointer.restore_run(initializer.train_state_axes)
  before, now = saved["base_fingerprint"], info.base_fingerprint
  if before is None and now is None and info.base and saved["base"]:
    # Nothing is frozen, so the models that the runs began with are compared.
    before, now = saved["base"]["fingerprint"], info.base["fingerprint"]
  if before != now:
    raise ValueError(
      f"{plan.model_dir} was trained on the base model {before}, but this one "
      f"is {now}. Give the INITIAL_CHECKPOINT_PATH of that run, or choose "
      "another folder."
    )
  if saved["task"] != info.task:
    raise ValueError(
      f"{plan.model_dir} was trained on {saved['task']}, this run is on "
      f"{info.task}. Choose another folder."
    )
  info = info.resumed(saved, int(state.step))
  return state.replace(frozen=frozen), base, info


def _frozen_fingerprint(
  state: TrainState, base: checkpoints.BaseCheckpoint | None
) -> str | None:
  """Returns the frozen parameters' fingerprint; in int8, their base model's."""
  if base and int8.is_used(state.frozen):
    return base.metadata.get("base_fingerprint") or base.fingerprint
  return checkpoints.fingerprint(state.frozen) if state.frozen else None
