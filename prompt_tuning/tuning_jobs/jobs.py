"""Data sets, tuning jobs and their events, as the store keeps them."""

import codecs
from collections.abc import Iterator, Mapping, Sequence
import dataclasses
import io
import pathlib
from typing import Annotated, Any

import pydantic

QUEUED, RUNNING = "queued", "running"
SUCCEEDED, FAILED, CANCELLED = "succeeded", "failed", "cancelled"
FINAL = (SUCCEEDED, FAILED, CANCELLED)
STATUSES = (QUEUED, RUNNING, *FINAL)
# Limited, because reading a line takes several times its size in memory.
_MAX_LINE_BYTES = 2**20
# A text that is not blank.
_Text = Annotated[str, pydantic.StringConstraints(pattern=r"\S")]


@dataclasses.dataclass(frozen=True)
class File:
  """An uploaded data set; the names of its fields are OpenAI's.

  Attributes:
    id: The identifier that requests use.
    filename: The name that the user gave.
    bytes: The size.
    pairs: The number of examples.
    created_at: Seconds since 1970.
    owner: The tenant that uploaded it, or None without keys.
    sha256: The content's SHA-256; None if an older release stored the file.
  """

  id: str
  filename: str
  bytes: int
  pairs: int
  created_at: int
  owner: str | None = None
  sha256: str | None = None


@dataclasses.dataclass(frozen=True)
class Settings:
  """The settings of a job; see `prompt_tuning.Model.tune`.

  `n_epochs` is set if the user gave epochs; `steps` was computed from it.
  """

  length: int = 20
  steps: int = 300
  init: str | None = None
  learning_rate: float = 0.3
  batch_size: int = 16
  seed: int = 0
  rank: bool = False
  n_epochs: int | None = None
  labels: Sequence[str] | None = None


@dataclasses.dataclass(frozen=True)
class Job:
  """A tuning job: a row of the store.

  Attributes:
    id: The identifier that requests use.
    created_at: Seconds since 1970.
    status: "queued", "running", "succeeded", "failed" or "cancelled".
    prompt: The name of the prompt that the job makes.
    settings: The settings to tune with.
    training_file: The id of the file to train on.
    validation_file: The id of the file that selects the best prompt, or None.
    model: The name of the base model, or None.
    fingerprint: The base model's fingerprint, or None.
    error: The reason for a failure.
    finished_at: The time of its end, in seconds since 1970.
    score: The prompt's score, if there is a validation file.
    step: The prompt's step, counted from pretraining step 0.
    attempts: The number of times that a worker has taken the job.
    tries: The attempts since the last progress or regular stop.
    saved: The step of the last checkpoint; -1 before the first.
    is_cancelled: Whether the user has cancelled it.
    owner: The tenant that queued it, or None without keys.
    metadata: The user's own notes, or None.
  """

  id: str
  created_at: int
  status: str
  prompt: str
  settings: Settings
  training_file: str
  validation_file: str | None
  model: str | None
  fingerprint: str | None
  error: str | None = None
  finished_at: int | None = None
  score: float | None = None
  step: int | None = None
  attempts: int = 0
  tries: int = 0
  saved: int = -1
  is_cancelled: bool = False
  owner: str | None = None
  metadata: Mapping[str, str] | None = None


@dataclasses.dataclass(frozen=True)
class JobEvent:
  """An event in the life of a job.

  Attributes:
    number: Its position among all events.
    job: The id of the job.
    created_at: Seconds since 1970.
    kind: A kind of `t5x.runs.events`, or "status".
    message: A text for people.
    data: Values such as the step, the loss and the score.
  """

  number: int
  job: str
  created_at: float
  kind: str
  message: str
  data: Mapping[str, Any]


class UnknownError(LookupError):
  """A file or job that does not exist.

  Attributes:
    kind: "file" or "job".
  """

  def __init__(self, kind: str, id: str):
    """Makes the message for an unknown identifier."""
    super().__init__(f"There is no {kind} {id[:80]!r}.")
    self.kind = kind


class InUseError(Exception):
  """A file that cannot be deleted because a job needs it."""


def cluster_folder(run: pathlib.Path) -> pathlib.Path:
  """Returns the folder of a run that a cluster and its worker share."""
  return run.with_name(f"{run.name}.cluster")


class _Example(pydantic.BaseModel):
  """A line of a data set; other fields are ignored."""

  prompt: _Text
  completion: _Text


def parse_examples(content: bytes) -> Iterator[tuple[str, str]]:
  """Reads lines of JSON, each an object with a prompt and a completion.

  Yields:
    (prompt, completion) of each line that is not blank.

  Raises:
    ValueError: if a line is not such an object (the message names the line), or
      if all lines are blank.
  """
  example = None
  lines = io.BytesIO(content.removeprefix(codecs.BOM_UTF8))
  for number, line in enumerate(lines, 1):
    if not line.strip():
      continue
    if len(line) > _MAX_LINE_BYTES:
      raise ValueError(
        f"Line {number}: expected at most {_MAX_LINE_BYTES} bytes, got "
        f"{len(line)}."
      )
    try:
      example = _Example.model_validate_json(line)
    except pydantic.ValidationError:
      raise ValueError(
        f"Line {number}: expected a JSON object in UTF-8, with the texts "
        f"'prompt' and 'completion': {line.decode(errors='replace')[:80]!r}."
      ) from None
    yield example.prompt, example.completion
  if example is None:
    raise ValueError("Expected lines of JSON, got an empty file.")
