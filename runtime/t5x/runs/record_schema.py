"""What `record.json` holds: the one schema of the record of a run.

`t5x.runs.records` writes it; whoever makes tables reads it with `parse`.
"""

from collections.abc import Mapping
import json
import math
from typing import Annotated, Any, Literal, TypeVar

import pydantic

from t5x.configuration.client import clients

VERSION = 3

Finite = Annotated[float, pydantic.AllowInfNan(False)]
Kind = Literal["train", "eval", "infer"]
Status = Literal["running", "finished", "stopped", "interrupted", "failed"]


def _check(metrics: dict[str, dict[str, float]]) -> dict[str, dict[str, float]]:
  """Refuses what is no score.

  Raises:
    ValueError: if a metric is no number, or a percentage outside [0, 100].
  """
  percentages = {name for x in clients() for name in x.percentages}
  for task, values in metrics.items():
    for name, value in values.items():
      if not math.isfinite(value):
        raise ValueError(f"{task}/{name} is {value}, which is no number")
      # Means of percentages may end on 100.00000000000001.
      if name in percentages and not -1e-6 <= value <= 100 + 1e-6:
        raise ValueError(f"{task}/{name} is {value}, outside [0, 100]")
  return metrics


# Task -> metric -> value.
Metrics = Annotated[
  dict[str, dict[str, float]], pydantic.AfterValidator(_check)
]


class Part(pydantic.BaseModel, extra="forbid"):
  """Refuses fields that it does not know."""


class Evaluation(Part):
  """An evaluation.

  Attributes:
    step: Counted from pretraining step 0.
    metrics: Percentages of known names lie in [0, 100].
    score: What evaluations of a run are compared by, if they are.
  """

  step: int
  metrics: Metrics
  score: Finite | None = None


class Device(Part):
  """What a run computed on.

  Attributes:
    platform: JAX's: "cpu", "gpu" or "tpu".
    kind: JAX's, such as "TPU v4" or "cpu".
    count: Devices of all processes.
    processes: How many there were.
    cpus: Cores that the first process might use.
    cpu: Their model. Scores repeat bit for bit only on the same model and
      number of cores.
  """

  platform: str
  kind: str | None = None
  count: int = 1
  processes: int = 1
  cpus: int | None = None
  cpu: str | None = None


class Base(Part):
  """The base model.

  Attributes:
    path: As it was given.
    step: Of the checkpoint.
    fingerprint: Of its values.
    name: If the checkpoint says one.
  """

  path: str
  step: int
  fingerprint: str
  name: str | None = None


class Steps(Part):
  """Where a training run begins and ends, counted from pretraining step 0."""

  first: int
  last: int


class Configuration(Part):
  """What a run was told, resolved; see `t5x.configuration.run_configuration`.

  Attributes:
    hash: Of the settings.
    settings: Name -> value, as Python writes it.
  """

  hash: str
  settings: dict[str, str]


class Change(Part):
  """A setting that was another one until a step of the run.

  Attributes:
    step: The step from which on `new` holds.
    name: Of the setting.
    old: Its value before; None if there was none.
    new: Its value after; None if there is none.
  """

  step: int
  name: str
  old: str | None
  new: str | None


class Record(Part):
  """The record of a run.

  Attributes:
    schema_version: 3.
    kind: The program that ran.
    status: "finished", "stopped" (by an action), "interrupted" (by a signal; it
      can go on), "failed" (with an `error`), or "running": if it is not, it
      was killed, which the next run in its folder notes as "interrupted".
    error: What ended a failed run.
    started: When its first attempt began: ISO 8601, in UTC.
    command: As it was started; empty if a program called the trainer.
    configuration: What it was told.
    changes: Settings that were others until a step, in order.
    commit: Of the code.
    uncommitted_changes: Whether the code was not quite that.
    versions: Package -> version.
    device: What it ran on.
    gin: The whole configuration as gin writes it; None without gin.
    seed: The random seed.
    seconds: Wall time, earlier attempts included.
    peak_memory_bytes: Of the process.
    base: The base model, if there was one.
    parameters: How many are "trainable" and "frozen".
    data: Tasks, splits, numbers of examples, lengths.
    steps: Where a training run begins and ends.
    step: Where it ended.
    evals: In the order of their steps.
    best: The evaluation that counts, of a training run.
  """

  schema_version: Literal[3] = pydantic.Field(alias="schema")
  kind: Kind
  status: Status
  error: str | None = None
  started: str
  command: list[str]
  configuration: Configuration | None = None
  changes: list[Change] = []
  commit: str | None = None
  uncommitted_changes: bool | None = None
  versions: dict[str, str] = {}
  device: Device | None = None
  gin: str | None = None
  seed: int | None = None
  seconds: Finite = 0.0
  peak_memory_bytes: int | None = None
  base: Base | None = None
  parameters: dict[str, int] = {}
  data: dict[str, Any] = {}
  steps: Steps | None = None
  step: int | None = None
  evals: list[Evaluation] = []
  best: Evaluation | None = None

  @pydantic.model_validator(mode="after")
  def _is_whole(self) -> "Record":
    if self.status == "failed" and not self.error:
      raise ValueError("a failed run has an error")
    if self.status == "finished":
      if not self.versions or not self.device:
        raise ValueError("a finished run has versions and a device")
      if self.kind == "eval" and not self.evals:
        raise ValueError("a finished evaluation has evals")
    return self


_Record = TypeVar("_Record", bound=Record)


def validate(
  fields: Mapping[str, Any], where: str, kind: type[_Record] = Record
) -> _Record:
  """Reads the fields of a record.

  Args:
    fields: JSON.
    where: For messages.
    kind: The class to make, which may bring properties of its own.

  Raises:
    ValueError: if they are none, or a score is no score.
  """
  try:
    return kind.model_validate(dict(fields))
  except pydantic.ValidationError as e:
    problems = "; ".join(
      f"{'.'.join(map(str, x['loc'])) or 'record'}: "
      f"{x['msg'].removeprefix('Value error, ')}"
      for x in e.errors()
    )
    raise ValueError(f"{where} is no record of a run: {problems}.") from e


def parse(text: str, where: str, kind: type[_Record] = Record) -> _Record:
  """Reads a `record.json`.

  Args:
    text: Its content.
    where: For messages.
    kind: The class to make, which may bring properties of its own.

  Raises:
    ValueError: as `validate` does, and if it is no JSON object.
  """
  try:
    fields = json.loads(text)
  except (ValueError, RecursionError) as e:
    raise ValueError(f"{where} is no record of a run: {e}.") from e
  if not isinstance(fields, dict):
    raise ValueError(f"{where} is no record of a run: expected an object.")
  return validate(fields, where, kind)


def dump(record: Record) -> str:
  """Returns the text of a `record.json`."""
  fields = record.model_dump(mode="json", by_alias=True)
  return json.dumps(fields, indent=2, sort_keys=True) + "\n"
