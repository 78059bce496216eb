"""Tuning on a cluster, which a worker hands its jobs to and waits for."""

from collections.abc import Callable, Mapping, Sequence
import dataclasses
import json
import os
import pathlib
import time
from typing import Any

import prompt_tuning as pt
from prompt_tuning import safe_files
from prompt_tuning.training.tuned_prompt import TunedPrompt
from t5x import events

# Between looks at a job.
_LOOK_SECONDS = 1.0
# A job that ends without a result, such as one that was preempted, goes on.
_TRIES = 5

Pairs = Sequence[tuple[str, str]]


def read_options(given: Sequence[str]) -> dict[str, str | int]:
  """Reads options of the command line, NAME=VALUE each.

  Raises:
    ValueError: if one has no "=".
  """
  options: dict[str, str | int] = {}
  for text in given:
    name, equals, value = text.partition("=")
    if not equals:
      raise ValueError(f"Expected --option NAME=VALUE, got {text}.")
    options[name] = int(value) if value.isdigit() else value
  return options


class Tuner:
  """Stands for a model, where prompts are tuned: each is a job of a cluster.

  The folder of the runs is one that the cluster's machines share. They write
  files there, and only the worker tells the store: SQLite is for one machine.
  """

  def __init__(
    self,
    load: Callable[[], pt.Model],
    cluster: str,
    options: Mapping[str, str | int],
  ):
    """Submits nothing yet.

    Args:
      load: Returns the model, on a machine of the cluster.
      cluster: As submitit names it: "slurm", or "local" for processes here.
      options: Of `submitit.AutoExecutor.update_parameters`, such as
        {"timeout_min": 600, "slurm_partition": "gpu"}.
    """
    self._load, self._cluster, self._options = load, cluster, dict(options)

  def tune(
    self,
    train: Pairs,
    validation: Pairs | None,
    *,
    folder: pathlib.Path,
    on_event: events.OnEvent,
    should_stop: events.ShouldStop,
    **settings: Any,
  ) -> TunedPrompt:
    """See `Model.tune`; a job that is there already is waited for.

    Raises:
      ValueError: for wrong examples or settings, or options of the cluster.
      RuntimeError: if the cluster ends the job, again and again.
    """
    place = folder.with_name(f"{folder.name}.cluster")
    place.mkdir(parents=True, exist_ok=True)
    work = _Work(self._load, train, validation, str(folder), place, settings)
    for _ in range(_TRIES):
      work.stop.unlink(missing_ok=True)
      job = self._found(place) or self._submit(work)
      while True:
        is_over = job.done()  # Before the last look at what it has told.
        _tell(place, on_event)
        if is_over:
          break
        if should_stop():
          work.stop.touch()
        time.sleep(_LOOK_SECONDS)
      (place / "job").unlink(missing_ok=True)
      if work.result.exists():
        return _read(work.result, folder)
    raise RuntimeError(
      f"The cluster ended the job {_TRIES} times: see {place}."
    )

  def _found(self, place: pathlib.Path) -> Any:
    """Returns the job that a worker submitted before it was killed."""
    import submitit

    if self._cluster != "slurm" or not (place / "job").exists():
      return None
    return submitit.SlurmJob(place, (place / "job").read_text())

  def _submit(self, work: "_Work") -> Any:
    import submitit

    work.result.unlink(missing_ok=True)
    try:
      executor = submitit.AutoExecutor(work.place, cluster=self._cluster)
      executor.update_parameters(name="prompt_tuning", **self._options)
    except (RuntimeError, NameError, TypeError, ValueError) as error:
      raise ValueError(f"submitit, {self._cluster!r}: {error}") from error
    job = executor.submit(work)
    safe_files.write(work.place / "job", job.job_id.encode())
    return job


@dataclasses.dataclass(frozen=True)
class _Work:
  """What a machine of the cluster does."""

  load: Callable[[], pt.Model]
  train: Pairs
  validation: Pairs | None
  folder: str
  place: pathlib.Path
  settings: Mapping[str, Any]

  @property
  def stop(self) -> pathlib.Path:
    """Where it is told to stop."""
    return self.place / "stop"

  @property
  def result(self) -> pathlib.Path:
    """Where it says how it ended."""
    return self.place / "result.json"

  def __call__(self) -> None:
    """Tunes a prompt."""
    with (self.place / "events.jsonl").open("a") as told:

      def on_event(event: events.Event) -> None:
        if event.kind != "step":
          told.write(
            f"{json.dumps(dataclasses.asdict(event), default=float)}\n"
          )
          told.flush()
          os.fsync(told.fileno())

      try:
        prompt = self.load().tune(
          self.train,
          self.validation,
          folder=self.folder,
          on_event=on_event,
          should_stop=self.stop.exists,
          **self.settings,
        )
        outcome = {"status": prompt.status}
      except (ValueError, FloatingPointError) as error:
        outcome = {"error": str(error)}
    safe_files.write(self.result, json.dumps(outcome).encode())


def _tell(place: pathlib.Path, on_event: events.OnEvent) -> None:
  """Tells what is new; how far it came outlives the worker."""
  path, told = place / "events.jsonl", place / "told"
  if not path.exists():
    return
  start = int(told.read_text()) if told.exists() else 0
  with path.open("rb") as file:
    file.seek(start)
    for line in file:
      if not line.endswith(b"\n"):  # The rest of it comes later.
        return
      on_event(events.Event(**json.loads(line)))
      start += len(line)
      safe_files.write(told, str(start).encode())


def _read(result: pathlib.Path, folder: pathlib.Path) -> TunedPrompt:
  outcome = json.loads(result.read_text())
  if "error" in outcome:
    raise ValueError(outcome["error"])
  prompt = TunedPrompt.load(folder / "prompt.safetensors")
  return dataclasses.replace(prompt, status=outcome["status"])
