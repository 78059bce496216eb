"""Whether a run may begin, or go on, in a folder with a configuration."""

from collections.abc import Mapping
import dataclasses
import os
from typing import Any

from etils import epath
import jax

from t5x.configuration import run_configuration
from t5x.configuration.run_configuration import RunConfiguration
from t5x.files import safe_files
from t5x.runs import records


@dataclasses.dataclass(frozen=True)
class Continuation:
  """A run in its folder, with what it was told and what it is told now.

  Attributes:
    folder: The run's.
    configuration: What it is told now; None if the caller does not say.
    differences: What of it is new; all of that may be.
    earlier_changes: What it went on with before, as in a record.
  """

  folder: str
  configuration: RunConfiguration | None
  differences: list[run_configuration.Difference]
  earlier_changes: list[dict[str, Any]]

  def begin(self, step: int) -> dict[str, Any]:
    """Notes what the run is told from a step on.

    Args:
      step: The step that it goes on with.

    Returns:
      Fields of its record.
    """
    if self.configuration is None:
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
        os.path.join(self.folder, run_configuration.FILE),
        run_configuration.dump(self.configuration, changes),
      )
    return {"configuration": self.configuration.to_json(), "changes": changes}

  def check_over(self, status: str, step: int) -> None:
    """Checks that a run that is over is asked for with its own settings.

    Raises:
      ValueError: if it is asked for with others, as nothing is left to do.
    """
    if self.differences:
      raise ValueError(
        f"{self.folder} is over, {status} at step {step}, with other settings, "
        f"there -> now: {run_configuration.describe(self.differences)}. Give "
        "more steps (TRAIN_STEPS or TRAIN_STEPS_RELATIVE), or choose another "
        "MODEL_DIR."
      )


def check(folder: str, configuration: RunConfiguration | None) -> Continuation:
  """Checks that a training run may begin or go on in a folder.

  Args:
    folder: An existing one.
    configuration: What it is told now; None checks nothing.

  Raises:
    ValueError: if the folder has a run of other settings, with their names, old
      and new values, or is damaged.
  """
  before = run_configuration.read(folder) if configuration else None
  if configuration is None or before is None:
    return Continuation(folder, configuration, [], [])
  earlier, changes = before
  try:
    differences = run_configuration.check_same_run(
      earlier,
      configuration,
      folder,
      is_evaluated=bool((records.read(folder) or {}).get("evals")),
    )
  except ValueError as error:
    if _has_checkpoint(folder):
      raise
    raise ValueError(
      f"{error} No step of it was saved: it may as well be deleted."
    ) from None
  _check_last_step(folder, configuration)
  return Continuation(folder, configuration, differences, changes)


def _has_checkpoint(folder: str) -> bool:
  return any(epath.Path(folder).glob("checkpoint_*"))


def _check_last_step(folder: str, configuration: RunConfiguration) -> None:
  """Refuses a last step that lies before where the run is, before data is read.

  Raises:
    ValueError: if it does.
  """
  record: Mapping[str, Any] = records.read(folder) or {}
  done, steps = record.get("step"), record.get("steps")
  relative = configuration.settings.get("train.relative_steps", "None")
  if done is None or not steps or not relative.isdigit():
    return
  if (last := steps["first"] + int(relative)) < done:
    raise ValueError(
      f"{folder} is at step {done}, {done - steps['first']} after its first. "
      f"TRAIN_STEPS_RELATIVE={relative} ends at {last}. Give more steps, or "
      "choose another MODEL_DIR."
    )
