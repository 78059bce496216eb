"""Tuning that starts again where the server's settings have changed."""

from collections.abc import Callable
import pathlib
import shutil
from typing import Any

from prompt_tuning.inference.requests import TunedPrompt
from t5x.configuration import identity
from t5x.runs import events


def tune(
  function: Callable[..., TunedPrompt],
  *pairs: Any,
  folder: pathlib.Path,
  on_event: events.OnEvent,
  **settings: Any,
) -> TunedPrompt:
  """Tunes in a job's folder, which may have a run of other settings.

  The settings of a job do not change. But since an earlier worker began its
  run, the server may have got another dtype, or the project another release.

  Args:
    function: `Model.tune`.
    *pairs: As for `function`, like the other arguments.
  """
  arguments = {"folder": folder, "on_event": on_event, **settings}
  try:
    return function(*pairs, **arguments)
  except identity.OtherSettingsError:
    shutil.rmtree(folder)
    text = "The job starts again, because the server's settings have changed."
    on_event(events.Event("notice", 0, 0, settings["steps"], text=text))
    return function(*pairs, **arguments)
