"""Where a run begins: with a base model, or where it was stopped."""

from collections.abc import Mapping
import dataclasses
from typing import Any

import jax

from t5x import checkpoints, multihost, utils
from t5x.files import digests, storage
from t5x.formats import checkpoint_folder, run
from t5x.runs import initialization, records
from t5x.train_state import TrainState


@dataclasses.dataclass
class Start:
  """Where a run begins, or goes on.

  Attributes:
    step: The step of the state.
    first_step: The step that the run began with.
    base: The base model, if there is one.
    base_fingerprint: Of what is frozen, if anything is.
    evals: The inference evaluations so far.
    seconds: The time that the run took so far.
    acted: Mode -> step and metrics of each time that its actions ran, where
      those are not `evals`.
    is_stopped: Whether an action ended the run there.
  """

  step: int
  first_step: int
  base: checkpoints.BaseCheckpoint | None
  base_fingerprint: str | None
  evals: list[dict[str, Any]]
  seconds: float
  acted: dict[str, list[dict[str, Any]]] = dataclasses.field(
    default_factory=dict
  )
  is_stopped: bool = False

  def __post_init__(self):
    # An evaluation of the loss alone is done again.
    if "TRAIN_EVAL" in self.acted and not self.is_evaluated:
      self.acted["TRAIN_EVAL"] = [
        x for x in self.acted["TRAIN_EVAL"] if x["step"] < self.step
      ]

  @property
  def is_evaluated(self) -> bool:
    """Whether the state at `step` was."""
    return bool(self.evals) and self.evals[-1]["step"] == self.step

  @property
  def base_identity(self) -> dict[str, Any] | None:
    """Path and fingerprint of the base model, for a checkpoint."""
    if self.base is None:
      return None
    return {"path": self.base.found, "fingerprint": self.base.fingerprint}

  def last_step(
    self, total_steps: int | None, relative_steps: int | None
  ) -> int:
    """Returns the step to end with.

    Args:
      total_steps: It, counted from pretraining step 0; or None.
      relative_steps: The steps of the run; or None.

    Raises:
      ValueError: if the run is beyond it.
    """
    if relative_steps is not None:
      last = self.first_step + relative_steps
    else:
      assert total_steps is not None, "one of the two is given"
      last = total_steps
    if last < self.step and relative_steps is not None:
      raise ValueError(
        f"TRAIN_STEPS_RELATIVE={relative_steps} ends at step {last}, and the "
        f"run is at {self.step}. Give more steps, or choose another MODEL_DIR."
      )
    if last < self.step:
      raise ValueError(
        f"TRAIN_STEPS={last} lies before the restored step {self.step}: it "
        "counts from pretraining step 0. Set TRAIN_STEPS_RELATIVE to count "
        "from the restored step."
      )
    return last


def seeds(model_dir: str) -> tuple[int | None, int | None]:
  """Returns the seeds that a run has, drawn or given, where it was stopped.

  Args:
    model_dir: The run's folder.

  Returns:
    Of initialisers and dropout, and of the order of the data: its newest
    checkpoint's, or, as those of before have none, its record's; None if it
    has none.
  """
  folder = checkpoint_folder.CheckpointFolder(storage.absolute(model_dir))
  paths = (str(folder.checkpoint(step)) for step in reversed(folder.steps()))
  good = (
    path
    for path in paths
    if run.is_checkpoint(path) and digests.damage(path, run.ITEM) is None
  )
  path = multihost.of_first_process(next(good, None))
  info = {} if path is None else run.read_info(path)
  record = records.read(model_dir) or {}
  return (
    info.get("seed", record.get("seed")),
    info.get("shuffle_seed", record.get("data", {}).get("shuffle_seed")),
  )


def restore(
  initializer: initialization.TrainStateInitializer,
  restore_cfg: utils.RestoreCheckpointConfig | None,
  checkpointer: checkpoints.Checkpointer,
  init_rng: jax.Array,
  model_dir: str,
  task: str,
) -> tuple[TrainState, Start]:
  """Reads the base model, and the run's latest checkpoint if it has one.

  Raises:
    ValueError: if the run's checkpoint is on another base model or task.
  """
  base = None
  if restore_cfg is not None and restore_cfg.path is not None:
    state, base = initializer.from_base_model(restore_cfg, init_rng)
  else:
    state = initializer.from_scratch(init_rng)
  identity = checkpoints.fingerprint(state.frozen) if state.frozen else None
  step = int(state.step)
  if checkpointer.latest_step() is None:
    return state, Start(step, step, base, identity, [], 0.0)
  # What trains is read anew: the devices need not hold it twice.
  frozen = state.frozen
  del state
  restored, run_info = checkpointer.restore_run(initializer.train_state_axes)
  before, now = run_info["base_fingerprint"], identity
  if before is None and now is None and base and run_info["base"]:
    # Nothing is frozen: it is what the run began with.
    before, now = run_info["base"]["fingerprint"], base.fingerprint
  if before != now:
    raise ValueError(
      f"{model_dir} was trained on the base model {before}, this one is {now}. "
      "Give its INITIAL_CHECKPOINT_PATH, or choose another MODEL_DIR."
    )
  if run_info["task"] != task:
    raise ValueError(
      f"{model_dir} was trained on {run_info['task']}, this run is on {task}. "
      "Choose another MODEL_DIR."
    )
  return restored.replace(frozen=frozen), Start(
    int(restored.step),
    run_info["first_step"],
    base,
    identity,
    run_info["evals"],
    run_info["seconds"],
    run_info.get("acted", {}),  # Checkpoints of before have none.
    run_info.get("is_stopped", False),
  )


def status_if_over(
  before: Mapping[str, Any], step: int, is_done: bool, is_same: bool
) -> str | None:
  """Returns how a run ended, if there is nothing left to do.

  Args:
    before: Its record.
    step: That of its last good checkpoint.
    is_done: Whether its last step was done, and evaluated.
    is_same: Whether it is told what it was told then.
  """
  status = before.get("status")
  # If it is over and the record does not say so, it was killed between the two.
  if is_done and status == "finished":
    return status
  # By an action: with more steps or other actions it may go on, and where the
  # checkpoint of its end is lost it has to.
  if status == "stopped" and is_same and before.get("step") == step:
    return status
  return None
