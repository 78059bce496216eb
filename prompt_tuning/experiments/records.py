"""Records of runs in `results/`: validated, and found by their settings.

`t5x.train` and `t5x.eval` leave a `record.json`. A table is made from copies of
those. Which run a record is of, its command says: two commands with the same
settings are the same run, wherever it was started and in whatever order its
arguments came.
"""

import ast
from collections.abc import Iterable, Mapping, Sequence
import dataclasses
import math
import pathlib
from typing import Annotated, Any, Literal

import pydantic

# Where a run writes and where its data lies: no settings.
_PLACES = {"MODEL_DIR", "EVAL_OUTPUT_DIR", "INFER_OUTPUT_DIR"}
# The same of flags, and on how many machines it runs.
_PLACE_FLAGS = {
  *("gin_search_paths", "tfds_data_dir", "seqio_additional_cache_dirs"),
  *("multiprocess_gpu", "nomultiprocess_gpu", "initialization_timeout"),
  *("coordinator_address", "process_count", "process_index"),
  *("traceback", "notraceback"),
}
# Not a score: the share of answers that are no label.
INVALID = "invalid"
# A mixture's own metric, beside those of its tasks: their mean.
AVERAGE = "super_glue_average"
# Of runs that are over, with results: an action may end one early.
COUNTING = ("finished", "stopped")

Finite = Annotated[float, pydantic.AllowInfNan(False)]
Metrics = dict[str, dict[str, Finite]]  # Task -> metric -> in [0, 100].


class Evaluation(pydantic.BaseModel):
  """One evaluation of a run."""

  step: int
  metrics: Metrics


class RunRecord(pydantic.BaseModel):
  """What the tables need of a `record.json`; the file holds more.

  Attributes:
    schema_version: Of the file; 1.
    kind: The program that ran.
    status: "failed" has an `error`, "stopped" was ended early by an action.
    command: As it was started.
    seconds: Wall time, earlier attempts included.
    uncommitted_changes: Whether the code was not quite that of `commit`.
    parameters: How many are "trainable" and "frozen".
    evals: In the order of their steps.
    best: The evaluation that counts, of a run of `t5x.train`.
  """

  schema_version: Literal[1] = pydantic.Field(alias="schema")
  kind: Literal["train", "eval", "infer"]
  status: Literal["running", "finished", "stopped", "interrupted", "failed"]
  error: str | None = None
  started: str
  command: list[str]
  commit: str | None
  uncommitted_changes: bool | None = None
  versions: dict[str, str] = {}
  device: dict[str, Any] = {}
  data: dict[str, Any] = {}
  gin: str | None = None
  seed: int | None = None
  seconds: Finite
  peak_memory_bytes: int | None = None
  parameters: dict[str, int] = {}
  evals: list[Evaluation] = []
  best: Evaluation | None = None

  @pydantic.model_validator(mode="after")
  def _is_whole(self) -> "RunRecord":
    if self.status == "failed" and not self.error:
      raise ValueError("a failed run has an error")
    if self.counts:
      if not self.gin or not self.versions or not self.device:
        raise ValueError("a finished run has gin, versions and a device")
      if self.kind == "eval" and not self.evals:
        raise ValueError("a finished evaluation has evals")
    return self

  @property
  def counts(self) -> bool:
    """Whether it has results."""
    return self.status in COUNTING

  @property
  def is_over(self) -> bool:
    """Whether it does not go on, unless it is tried again."""
    return self.counts or self.status == "failed"

  @property
  def metrics(self) -> Metrics:
    """Task -> what counts: the best checkpoint's on dev, as in the paper."""
    last = self.evals[-1].metrics if self.evals else {}
    metrics = self.best.metrics if self.best else last
    return {task: x for task, x in metrics.items() if AVERAGE not in x}

  @property
  def scores(self) -> dict[str, float]:
    """Task -> the mean of its metrics, in [0, 100], as in the paper."""
    scores = {}
    for task, metrics in self.metrics.items():
      values = [x for name, x in metrics.items() if name != INVALID]
      scores[task] = sum(values) / len(values)
    return scores


def parse(text: str, where: str) -> RunRecord:
  """Reads a record.

  Raises:
    ValueError: if it is none.
  """
  try:
    return RunRecord.model_validate_json(text)
  except pydantic.ValidationError as e:
    problems = "; ".join(
      f"{'.'.join(map(str, x['loc'])) or 'record'}: {x['msg']}"
      for x in e.errors()
    )
    raise ValueError(f"{where} is no record of a run: {problems}.") from e


@dataclasses.dataclass(frozen=True)
class Settings:
  """What a command sets, to be compared with another's.

  Attributes:
    program: Such as "t5x.train".
    gin_files: In order, as later files win.
    bindings: Name -> value, sorted, without places; values as Python writes
      them.
    flags: The others, sorted.
  """

  program: str
  gin_files: tuple[str, ...]
  bindings: tuple[tuple[str, str], ...]
  flags: tuple[str, ...]


def settings(command: Sequence[str]) -> Settings:
  """Reads the settings of `python -m PROGRAM --gin_file=... --gin.X=...`.

  Raises:
    ValueError: if it is another kind of command.
  """
  if list(command[:2]) != ["python", "-m"] or len(command) < 3:
    raise ValueError(
      f"Expected a command python -m PROGRAM ..., got {' '.join(command)}."
    )
  arguments: list[str] = []
  for argument in command[3:]:
    if argument.startswith("-"):
      arguments.append(argument)
    elif arguments and "=" not in arguments[-1]:
      arguments[-1] += f"={argument}"
    else:
      raise ValueError(f"Expected --FLAG=VALUE, got {argument}.")
  gin_files, bindings, flags = [], {}, []
  for argument in arguments:
    name, _, value = argument.lstrip("-").partition("=")
    if name == "gin_file":
      gin_files.append(value)
    elif name == "gin_bindings":
      binding, _, value = value.partition("=")
      bindings[binding.strip()] = _canonical(value)
    elif name.startswith("gin."):
      bindings[name.removeprefix("gin.")] = _canonical(value)
    elif name not in _PLACE_FLAGS:
      flags.append(argument)
  return Settings(
    command[2],
    tuple(gin_files),
    tuple(sorted((k, v) for k, v in bindings.items() if k not in _PLACES)),
    tuple(sorted(flags)),
  )


def _canonical(value: str) -> str:
  try:
    return repr(ast.literal_eval(value.strip()))
  except (ValueError, SyntaxError):
    return value.strip()


@dataclasses.dataclass(frozen=True)
class Filed:
  """A record in its place in `results/`."""

  path: pathlib.Path
  record: RunRecord


def load(results: pathlib.Path) -> dict[Settings, Filed]:
  """Reads all records below a folder.

  Args:
    results: Holds a folder of records for each sheet.

  Returns:
    Settings -> record. Of two with the same settings one with results counts,
    then the first by name.

  Raises:
    ValueError: if a file is no record.
  """
  found: dict[Settings, Filed] = {}
  for path in sorted(results.glob("**/*.json")):
    record = parse(path.read_text(encoding="utf-8"), str(path))
    key = settings(record.command)
    if key not in found or (record.counts and not found[key].record.counts):
      found[key] = Filed(path, record)
  return found


@dataclasses.dataclass(frozen=True)
class Summary:
  """Scores of several seeds.

  Attributes:
    mean: In [0, 100].
    std: The sample's standard deviation; None of a single run.
    n: How many there are.
  """

  mean: float
  std: float | None
  n: int


def summarize(values: Iterable[float]) -> Summary | None:
  """Returns mean, standard deviation and n; None of no values."""
  values = list(values)
  if not values:
    return None
  n = len(values)
  mean = math.fsum(values) / n
  std = None
  if n > 1:
    std = math.sqrt(math.fsum((x - mean) ** 2 for x in values) / (n - 1))
  return Summary(mean, std, n)


def mean_of(scores: Mapping[Any, float]) -> float:
  """Returns the mean over tasks."""
  return math.fsum(scores.values()) / len(scores)
