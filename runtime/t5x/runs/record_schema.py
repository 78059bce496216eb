"""The schema of a run's record, `record.json`.

`t5x.runs.records` writes records; programs that make tables `parse` them.
"""

from collections.abc import Mapping
import json
import math
from typing import Annotated, Any, Literal, TypeVar

import pydantic

from t5x.configuration.client import clients
from t5x.files import parsing

VERSION = 3

Finite = Annotated[float, pydantic.AllowInfNan(False)]


def _check(metrics: dict[str, dict[str, float]]) -> dict[str, dict[str, float]]:
  """Returns metrics after checking that all are valid scores.

  Raises:
    ValueError: if a metric is not finite, or a percentage outside [0, 100].
  """
  percentages = {name for x in clients() for name in x.percentages}
  for task, values in metrics.items():
    for name, value in values.items():
      if not math.isfinite(value):
        raise ValueError(f"{task}/{name} is {value}, which is not a number")
      # Means of percentages may end on 100.00000000000001.
      if name in percentages and not -1e-6 <= value <= 100 + 1e-6:
        raise ValueError(f"{task}/{name} is {value}, outside [0, 100]")
  return metrics


# Task -> metric -> value.
Metrics = Annotated[
  dict[str, dict[str, float]], pydantic.AfterValidator(_check)
]


class Part(pydantic.BaseModel, extra="forbid"):
  """A part of a record, which allows no unknown fields."""


class Evaluation(Part):
  """An evaluation.

  Attributes:
    step: Counted from pretraining step 0.
    metrics: Task -> metric -> value; percentages are in [0, 100].
    score: The value by which a run's evaluations are compared, if they are.
  """

  step: int
  metrics: Metrics
  score: Finite | None = None

  @pydantic.model_validator(mode="after")
  def _is_a_mean(self) -> "Evaluation":
    values = [x for task in self.metrics.values() for x in task.values()]
    if self.score is not None and values:
      # Means may end on 100.00000000000001.
      distance = max(min(values) - self.score, self.score - max(values))
      if distance > 1e-6:
        raise ValueError(f"the score {self.score} is not a mean of its metrics")
    return self


class Device(Part):
  """The devices that a run used.

  Attributes:
    platform: JAX's platform: "cpu", "gpu" or "tpu".
    kind: JAX's name of the device, such as "TPU v4" or "cpu".
    count: The number of devices of all processes.
    processes: The number of processes.
    cpus: The number of cores that the first process could use.
    cpu: The model of the CPU. Scores repeat bit for bit only on the same model
      and number of cores.
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
    path: The path that the run was given.
    step: The step of the checkpoint.
    fingerprint: The identity of its values.
    name: The model's name in the checkpoint, if it has one.
  """

  path: str
  step: int
  fingerprint: str
  name: str | None = None


class Steps(Part):
  """The first and last step of a run, counted from pretraining step 0."""

  first: int
  last: int


class Configuration(Part):
  """A resolved configuration; see `t5x.configuration.identity`.

  Attributes:
    hash: The run's identity.
    settings: Name -> value, as Python writes it.
  """

  hash: str
  settings: dict[str, str]


class Change(Part):
  """A setting that changed when a run was resumed.

  Attributes:
    step: The first step with the new value.
    name: The name of the setting.
    old: The value before, or None if it was not set.
    new: The value after, or None if it is not set.
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
      can resume), "failed" (with an `error`), or "running". A killed run says
      "running" until the next run in its folder corrects it to "interrupted".
    error: The error that ended a failed run.
    started: When its first attempt began: ISO 8601, in UTC.
    command: The command line; empty if a program called the trainer.
    configuration: The resolved configuration, if the run has one.
    changes: Settings that changed during the run, in order.
    commit: The commit of the code.
    uncommitted_changes: Whether the code differed from that commit.
    versions: Package -> version.
    device: The devices that it used.
    gin: The whole configuration as gin writes it; None without gin.
    seed: The random seed.
    seconds: Wall time, earlier attempts included.
    step_seconds: Wall time of a training step, the median over the last
      attempt's logged means.
    peak_memory_bytes: The greatest memory that the process used.
    base: The base model, if the run has one.
    parameters: The numbers of "trainable" and "frozen" parameters.
    data: Tasks, splits, numbers of examples, lengths.
    steps: The first and last step of a training run.
    step: The step at which it ended.
    evals: Evaluations in the order of their steps.
    best: The best evaluation of a training run.
  """

  schema_version: Literal[3] = pydantic.Field(alias="schema")
  kind: Literal["train", "eval", "infer"]
  status: Literal["running", "finished", "stopped", "interrupted", "failed"]
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
  step_seconds: Finite | None = None
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


def parse(
  content: str | bytes | Mapping[str, Any],
  where: str,
  kind: type[_Record] = Record,
) -> _Record:
  """Reads a `record.json`.

  Args:
    content: The text of the file, or its fields.
    where: The place of the record, for messages.
    kind: The class to make, which may add properties.

  Raises:
    ValueError: if it is not the JSON of a record, or a score is invalid.
  """
  with parsing.of(where, "the record of a run"):
    if isinstance(content, str | bytes):
      return kind.model_validate_json(content)
    return kind.model_validate(content)


def dump(fields: Mapping[str, Any], where: str) -> str:
  """Returns the text of a `record.json` with some fields; see `parse`."""
  whole = parse(fields, where).model_dump(mode="json", by_alias=True)
  if whole["step_seconds"] is None:  # Records of schema 3 began without it.
    del whole["step_seconds"]
  return json.dumps(whole, indent=2, sort_keys=True) + "\n"
