"""Data sets, tuning jobs and their events, as the store keeps them."""

import codecs
from collections.abc import Iterator, Mapping
import dataclasses
import io
import json
import pathlib
from typing import Any, Literal

QUEUED, RUNNING = "queued", "running"
SUCCEEDED, FAILED, CANCELLED = "succeeded", "failed", "cancelled"
FINAL = (SUCCEEDED, FAILED, CANCELLED)
# Reading a line takes several times its size in memory.
_MAX_LINE_BYTES = 2**20


@dataclasses.dataclass(frozen=True)
class File:
  """An uploaded data set; the names of its fields are OpenAI's.

  Attributes:
    id: The identifier that requests use.
    filename: The name that the user gave.
    bytes: The size.
    pairs: The number of examples.
    created_at: Seconds since 1970.
  """

  id: str
  filename: str
  bytes: int
  pairs: int
  created_at: int


@dataclasses.dataclass(frozen=True)
class Settings:
  """The settings of a job; see `prompt_tuning.Model.tune`.

  `n_epochs` is set if the user gave epochs, from which `steps` was computed.
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
  """A tuning job: a row of the store.

  Attributes:
    id: The identifier that requests use.
    created: Seconds since 1970.
    status: "queued", "running", "succeeded", "failed" or "cancelled".
    prompt: The name of the prompt that the job makes.
    settings: The settings to tune with.
    training_file: The id of the file to train on.
    validation_file: The id of the file to choose the best prompt by, or None.
    model: The name of the base model, or None.
    fingerprint: The base model's fingerprint, or None.
    error: The reason for a failure.
    finished: The end, in seconds since 1970.
    score: The prompt's score, if there is a validation file.
    step: The prompt's step, counted from pretraining step 0.
    attempts: The number of times that a worker has taken the job.
    tries: The attempts since the last progress or orderly stop.
    saved: The step of the last checkpoint; -1 before the first.
    is_cancelled: Whether the user has cancelled it.
  """

  id: str
  created: int
  status: str
  prompt: str
  settings: Settings
  training_file: str
  validation_file: str | None
  model: str | None
  fingerprint: str | None
  error: str | None = None
  finished: int | None = None
  score: float | None = None
  step: int | None = None
  attempts: int = 0
  tries: int = 0
  saved: int = -1
  is_cancelled: bool = False


@dataclasses.dataclass(frozen=True)
class JobEvent:
  """An event in the life of a job.

  Attributes:
    number: The position among all events.
    job: The id of the job.
    created: Seconds since 1970.
    kind: A kind of `t5x.runs.events`, or "status".
    message: A text for people.
    data: Values such as the step, the loss and the score.
  """

  number: int
  job: str
  created: float
  kind: str
  message: str
  data: Mapping[str, Any]


class UnknownError(KeyError):
  """A file or job that does not exist.

  Attributes:
    kind: "file" or "job".
    id: The identifier that was asked for.
  """

  def __init__(self, kind: Literal["file", "job"], id: str):
    """Keeps its arguments."""
    super().__init__(id)
    self.kind, self.id = kind, id


class InUseError(Exception):
  """A file that cannot be deleted because a job needs it."""


def cluster_folder(run: pathlib.Path) -> pathlib.Path:
  """Returns the folder of a run that a cluster and its worker share."""
  return run.with_name(f"{run.name}.cluster")


def parse_examples(content: bytes) -> Iterator[tuple[str, str]]:
  """Reads lines of JSON, each an object with a prompt and a completion.

  Yields:
    (prompt, completion) of each line that is not blank.

  Raises:
    ValueError: if a line is not such an object (the message names the line), or
      if all lines are blank.
  """
  is_empty = True
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
      example = _parse_line(line.decode())
    except UnicodeDecodeError as error:
      raise ValueError(f"Line {number}: expected UTF-8, got {error}.") from None
    except (ValueError, LookupError, TypeError, RecursionError):
      raise ValueError(
        f"Line {number}: expected a JSON object with the texts 'prompt' and "
        f"'completion', got {line.decode()[:80]!r}."
      ) from None
    yield example
    is_empty = False
  if is_empty:
    raise ValueError("Expected lines of JSON, got an empty file.")


def _parse_line(line: str) -> tuple[str, str]:
  row = json.loads(line)
  prompt, completion = row["prompt"], row["completion"]
  # JSON may contain lone surrogates, which no tokenizer accepts.
  "".join((prompt, completion)).encode()
  if not (prompt.strip() and completion.strip()):
    raise ValueError(line)
  return prompt, completion
