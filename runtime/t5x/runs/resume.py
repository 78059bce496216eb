"""The start of a run: at its base model, or where it was stopped."""

from collections.abc import Iterator, Mapping
import contextlib
import dataclasses
import os
import secrets
from typing import Any

from etils import epath
import jax

from t5x import checkpoints, multihost
from t5x.configuration import identity
from t5x.files import digests, run_lock, safe_files, storage
from t5x.formats import checkpoint_folder, run
from t5x.runs import initialization, records
from t5x.runs.plan import Plan
from t5x.train_state import TrainState


@dataclasses.dataclass
class Start:
  """The point at which a run begins or resumes.

  Attributes:
    step: The step of the state.
    first_step: The step that the run began with.
    base: The base model, if there is one.
    base_fingerprint: Fingerprint of the frozen parameters, if there are any.
    evals: The inference evaluations so far; the loop adds its own.
    seconds: The time that the run took so far.
    acted: Mode -> step and metrics of each time that its actions ran, unless
      those are `evals`; the loop adds its own.
    is_stopped: Whether an action ended the run there.
  """

  step: int
  first_step: int
  base: checkpoints.BaseCheckpoint | None
  base_fingerprint: str | None
  evals: list[dict[str, Any]] = dataclasses.field(default_factory=list)
  seconds: float = 0.0
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
    """True if the state at `step` was evaluated."""
    return bool(self.evals) and self.evals[-1]["step"] == self.step

  @property
  def base_identity(self) -> dict[str, Any] | None:
    """Path and fingerprint of the base model, for a checkpoint."""
    if self.base is None:
      return None
    return {"path": self.base.found, "fingerprint": self.base.fingerprint}


@contextlib.contextmanager
def locked_folder(
  folder: str,
  macro: str,
  program: str,
  configuration: identity.RunConfiguration | None,
  part: str = "run",
) -> Iterator[run_lock.RunLock]:
  """Makes a run's folder, and holds its lock.

  Args:
    folder: The folder, the same for all processes.
    macro: The macro that names it, for messages.
    program: "train", "eval" or "infer".
    configuration: The settings, which all processes must share.
    part: The lock to hold, where runs may share the folder.

  Raises:
    ValueError: if the folder cannot be written, another run holds the lock, or
      the folder has the record of another program.
  """
  identity.check_same_everywhere(configuration, folder)
  records.make_folder(folder, macro, program)
  with run_lock.RunLock(folder, macro, part) as lock:
    yield lock


@dataclasses.dataclass(frozen=True)
class Settings:
  """A run's settings, and how they differ from those in its folder.

  Attributes:
    plan: The run.
    differences: The settings that are new; all of them may change.
    earlier_changes: Changes that the run resumed with before, as in a record.
  """

  plan: Plan
  differences: list[identity.Difference]
  earlier_changes: list[dict[str, Any]]

  @classmethod
  def check(cls, plan: Plan) -> "Settings":
    """Checks that a run may begin or resume in its folder, which exists.

    Raises:
      ValueError: if the folder has a run of other settings, with their names,
        old and new values, or is damaged.
    """
    folder, configuration = plan.model_dir, plan.configuration
    record: Mapping[str, Any] = records.read(folder) or {}
    differences, changes = [], []
    if configuration is not None and (before := identity.read(folder)):
      earlier, changes = before
      try:
        differences = identity.check_same_run(
          earlier,
          configuration,
          folder,
          is_evaluated=bool(record.get("evals")),
        )
      except ValueError as error:
        if any(epath.Path(folder).glob("checkpoint_*")):
          raise
        raise ValueError(
          f"{error} The run saved no step: you can delete the folder."
        ) from None
      if record.get("step") is not None and record.get("steps"):
        plan.last_step(record["steps"]["first"], record["step"])
    return cls(plan, differences, changes)

  def write(self, step: int) -> dict[str, Any]:
    """Writes the settings to the folder, and returns them for the record.

    Args:
      step: The step from which they hold.
    """
    configuration = self.plan.configuration
    if configuration is None:
      return {}
    changes = [
      *self.earlier_changes,
      *(
        {"step": step, "name": x.name, "old": x.old, "new": x.new}
        for x in self.differences
      ),
    ]
    if jax.process_index() == 0:
      safe_files.write(
        os.path.join(self.plan.model_dir, identity.FILE),
        identity.dump(configuration, changes),
      )
    return {"configuration": configuration.to_json(), "changes": changes}

  def are_same(self, last_step: int) -> bool:
    """Returns whether they equal those of the run's record, with its length."""
    # Without a configuration, only the length of a run is known.
    steps = (records.read(self.plan.model_dir) or {}).get("steps")
    return not self.differences and (not steps or steps["last"] == last_step)

  def status_if_over(
    self, start: Start, last_step: int, is_done: bool
  ) -> str | None:
    """Returns how a run ended, or None if there is something left to do.

    Args:
      start: The run's last good checkpoint.
      last_step: The step that the run is to end with.
      is_done: Whether the last step was done and evaluated.

    Raises:
      ValueError: if the run is over, but had other settings.
    """
    record = records.read(self.plan.model_dir) or {}
    status = record.get("status")
    # An action stopped it: more steps or other actions resume the run, and so
    # does the loss of its last checkpoint. If the record does not say that the
    # run is over, it was killed before it could.
    is_over = (is_done and status == "finished") or (
      status == "stopped"
      and self.are_same(last_step)
      and record.get("step") == start.step
    )
    if not is_over:
      return None
    if self.differences:
      raise ValueError(
        f"{self.plan.model_dir} is over, {status} at step {start.step}, with "
        "other settings, there -> now: "
        f"{identity.describe(self.differences)}. Give more steps "
        "(TRAIN_STEPS or TRAIN_STEPS_RELATIVE), or choose another MODEL_DIR."
      )
    return status


def seeds(plan: Plan) -> tuple[int, int]:
  """Returns the seeds of a run, the same in all processes.

  Returns:
    The seed of initialisers and dropout, and that of the order of the data:
    given by the plan, else by the newest whole checkpoint, else drawn.
  """
  folder = checkpoint_folder.CheckpointFolder(storage.absolute(plan.model_dir))
  paths = (str(folder.checkpoint(step)) for step in reversed(folder.steps()))
  good = (
    path
    for path in paths
    if run.is_checkpoint(path) and digests.damage(path, run.ITEM) is None
  )
  path = multihost.from_first_process(next(good, None))
  info = {} if path is None else run.read_info(path)

  def seed(given: int | None, name: str) -> int:
    if given is not None:
      return given
    drawn = info[name] if info else secrets.randbits(31)
    return int(multihost.from_first_process(drawn))

  return (
    seed(plan.random_seed, "seed"),
    seed(plan.train_dataset_cfg.seed, "shuffle_seed"),
  )


def restore(
  plan: Plan,
  initializer: initialization.TrainStateInitializer,
  checkpointer: checkpoints.Checkpointer,
  init_rng: jax.Array,
) -> tuple[TrainState, Start]:
  """Reads the base model, and the run's latest checkpoint if it has one.

  Raises:
    ValueError: if the run's checkpoint is on another base model or task.
  """
  restore_cfg = plan.checkpoint_cfg.restore
  base = None
  if restore_cfg is not None and restore_cfg.path is not None:
    state, base = initializer.from_base_model(restore_cfg, init_rng)
  else:
    state = initializer.from_scratch(init_rng)
  identity = checkpoints.fingerprint(state.frozen) if state.frozen else None
  step = int(state.step)
  if checkpointer.latest_step() is None:
    return state, Start(step, step, base, identity)
  # What trains is read anew: the devices need not hold it twice.
  frozen = state.frozen
  del state
  restored, run_info = checkpointer.restore_run(initializer.train_state_axes)
  before, now = run_info["base_fingerprint"], identity
  if before is None and now is None and base and run_info["base"]:
    # Nothing is frozen: the run is compared by the model that it began with.
    before, now = run_info["base"]["fingerprint"], base.fingerprint
  if before != now:
    raise ValueError(
      f"{plan.model_dir} was trained on the base model {before}, this one is "
      f"{now}. Give its INITIAL_CHECKPOINT_PATH, or choose another MODEL_DIR."
    )
  task = plan.train_dataset_cfg.name
  if run_info["task"] != task:
    raise ValueError(
      f"{plan.model_dir} was trained on {run_info['task']}, this run is on "
      f"{task}. Choose another MODEL_DIR."
    )
  return restored.replace(frozen=frozen), Start(
    int(restored.step),
    run_info["first_step"],
    base,
    identity,
    run_info["evals"],
    run_info["seconds"],
    run_info["acted"],
    run_info["is_stopped"],
  )
