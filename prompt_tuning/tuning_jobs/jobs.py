"""Data sets and tuning jobs, as rows of a store."""

from collections.abc import Mapping
import dataclasses
from typing import Any

QUEUED, RUNNING = "queued", "running"
SUCCEEDED, FAILED, CANCELLED = "succeeded", "failed", "cancelled"
OVER = (SUCCEEDED, FAILED, CANCELLED)


@dataclasses.dataclass(frozen=True)
class File:
  """A data set.

  Attributes:
    id: Its name for programs.
    name: Its name for people.
    bytes: Its size.
    pairs: Examples in it.
    created: Seconds since 1970.
  """

  id: str
  name: str
  bytes: int
  pairs: int
  created: int


@dataclasses.dataclass(frozen=True)
class Settings:
  """How a prompt is tuned; see `prompt_tuning.Model.tune`.

  `n_epochs` is what was asked for, if the steps are made of it.
  """

  length: int = 20
  steps: int = 300
  init: str | None = None
  learning_rate: float = 0.3
  batch_size: int = 16
  seed: int = 0
  rank: bool = False
  n_epochs: int | None = None


@dataclasses.dataclass(frozen=True)
class Job:
  """A tuning job.

  Attributes:
    number: The order of jobs.
    id: Its name.
    created: Seconds since 1970.
    status: "queued", "running", "succeeded", "failed" or "cancelled".
    prompt: The name that its prompt has, or will have.
    settings: How it is tuned.
    training_file: What on: the id of a file.
    validation_file: What the best prompt is chosen by, or None.
    error: Why it failed.
    finished: When it ended.
    score: Of the prompt, if there was a validation file.
    step: Of the prompt, counted from pretraining step 0.
    attempts: How often it was begun, or begun again.
    tries: The same, since it last came further or was stopped in good order.
    is_cancelled: Whether it is to end without a prompt.
    model: The name of the base model; earlier releases did not keep it.
    fingerprint: What that is known by; the same.
  """

  number: int
  id: str
  created: int
  status: str
  prompt: str
  settings: Settings
  training_file: str
  validation_file: str | None
  error: str | None
  finished: int | None
  score: float | None
  step: int | None
  attempts: int
  tries: int
  is_cancelled: bool
  model: str | None
  fingerprint: str | None


@dataclasses.dataclass(frozen=True)
class JobEvent:
  """Something that happened in a job.

  Attributes:
    number: The order of events.
    created: Seconds since 1970.
    kind: As of `t5x.runs.events`, or "status".
    message: For people.
    data: Such as the step, the loss and the score.
  """

  number: int
  created: float
  kind: str
  message: str
  data: Mapping[str, Any]
