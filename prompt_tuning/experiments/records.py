"""Records of runs in `results/`: validated, and found by their settings.

`t5x.train` and `t5x.eval` leave a `record.json`. A table is made from copies of
those. Which run a record is of, its command says: two commands with the same
settings are the same run, wherever it was started and in whatever order its
arguments came.
"""

import ast
from collections.abc import Iterable, Iterator, Sequence
import dataclasses
import datetime
import glob
import math
import pathlib
import statistics

from absl import logging

from t5x.runs import record_schema

# Where a run writes and where its data lies: no settings.
_PLACES = {"MODEL_DIR", "EVAL_OUTPUT_DIR", "INFER_OUTPUT_DIR"}
# The same of flags, and on how many machines it runs.
_PLACE_FLAGS = {
  *("gin_search_paths", "tfds_data_dir", "seqio_additional_cache_dirs"),
  *("multiprocess_gpu", "nomultiprocess_gpu", "initialization_timeout"),
  *("coordinator_address", "process_count", "process_index"),
  *("traceback", "notraceback"),
}
# Macros that name prompts to read.
_PROMPTS = ("PROMPT_FILE", "PROMPT_FILES")
# Not a score: the share of answers that are no label.
INVALID = "invalid"
# A mixture's own metric, beside those of its tasks: their mean.
AVERAGE = "super_glue_average"
# Of runs that are over, with results: an action may end one early.
COUNTING = ("finished", "stopped")


class RunRecord(record_schema.Record):
  """A record, and what tables make of it."""

  @property
  def counts(self) -> bool:
    """Whether it has results."""
    return self.status in COUNTING

  @property
  def is_over(self) -> bool:
    """Whether it does not go on, unless it is tried again."""
    return self.counts or self.status == "failed"

  @property
  def began(self) -> datetime.datetime:
    """When its first attempt began."""
    return datetime.datetime.fromisoformat(self.started)

  @property
  def ended(self) -> datetime.datetime:
    """When it was over, had it run in one go: not later than it was."""
    return self.began + datetime.timedelta(seconds=int(self.seconds))

  @property
  def metrics(self) -> record_schema.Metrics:
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

  @property
  def score(self) -> float:
    """What counts of it: the mean over its tasks, in [0, 100]."""
    return statistics.fmean(self.scores.values())

  def at_its_end(self) -> "RunRecord":
    """Returns the record with what its last evaluation found as what counts."""
    return self.model_copy(update={"best": None})

  def after(self, steps: int) -> "RunRecord | None":
    """Returns the record as it would be had the run ended early.

    At a constant learning rate that is what a shorter run would have left.

    Args:
      steps: Counted from the run's first.

    Returns:
      The record, or None if the run had not so many steps, or was not evaluated
      by then.
    """
    if self.steps is None:
      return None
    last = self.steps.last if self.step is None else self.step
    if last - self.steps.first < steps:
      return None
    evals = [x for x in self.evals if x.step - self.steps.first <= steps]
    scored = [(x.score, -x.step, x) for x in evals if x.score is not None]
    if not scored:
      return None
    _, _, best = max(scored)  # The first of equal ones.
    return self.model_copy(update={"evals": evals, "best": best})


def parse(text: str, where: str) -> RunRecord:
  """Reads a record.

  Raises:
    ValueError: if it is none.
  """
  return record_schema.parse(text, where, RunRecord)


def read(path: pathlib.Path) -> RunRecord:
  """Reads the record in a file; raises ValueError if it is none."""
  return parse(path.read_text(encoding="utf-8"), str(path))


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

  @property
  def kind(self) -> str:
    """Of the program: "train", "eval" or "infer"."""
    return self.program.rpartition(".")[2]

  @property
  def prompts_read(self) -> tuple[str, ...]:
    """Paths, or patterns of paths, of the prompts that the run begins with."""
    return tuple(
      ast.literal_eval(value)
      for name, value in self.bindings
      if name in _PROMPTS and value.startswith(("'", '"'))
    )


def joined(arguments: Sequence[str]) -> list[str]:
  """Joins flags and the values that follow them after a space.

  Raises:
    ValueError: if a value follows no flag.
  """
  found: list[str] = []
  for argument in arguments:
    if argument.startswith("-"):
      found.append(argument)
    elif found and "=" not in found[-1]:
      found[-1] += f"={argument}"
    else:
      raise ValueError(f"Expected --FLAG=VALUE, got {argument}.")
  return found


def settings(command: Sequence[str]) -> Settings:
  """Reads the settings of `python -m PROGRAM --gin_file=... --gin.X=...`.

  Those of no command, where a program called the trainer, are no cell's.

  Raises:
    ValueError: if it is another kind of command.
  """
  if not command:
    return Settings("", (), (), ())
  if list(command[:2]) != ["python", "-m"] or len(command) < 3:
    raise ValueError(
      f"Expected a command python -m PROGRAM ..., got {' '.join(command)}."
    )
  gin_files, bindings, flags = [], {}, []
  for argument in joined(command[3:]):
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


def made_prompts(
  pattern: str, root: pathlib.Path
) -> Iterator[tuple[str, RunRecord | None]]:
  """Finds prompts, and the runs that made them.

  Args:
    pattern: Of paths, as `Settings.prompts_read` has them.
    root: The folder that they are named from.

  Yields:
    Each path that is there, with the record of its run: the one beside it, of
    its name in `results`, `record.json` in a run's folder. None if there is
    neither.

  Raises:
    ValueError: if such a file is no record.
  """
  for name in sorted(glob.glob(pattern, root_dir=root)):
    path = root / name
    beside = (path.with_suffix(".json"), path.with_name("record.json"))
    found = next((x for x in beside if x.exists()), None)
    yield name, read(found) if found else None


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


def paths(results: pathlib.Path) -> list[pathlib.Path]:
  """Returns the files of records below a folder, by name.

  They lie in a folder for each sheet. Benchmarks and plans are of no run.
  """
  return [
    path
    for path in sorted(results.glob("*/**/*.json"))
    if path.relative_to(results).parts[0] != "benchmarks"
  ]


def load(results: pathlib.Path) -> list[Filed]:
  """Reads all records below a folder, by name.

  One that says "running" is of a run that was killed, as records are filed when
  runs are over: it is taken as interrupted, with a warning.

  Args:
    results: Holds a folder of records for each sheet.

  Raises:
    ValueError: if a file is no record.
  """
  filed = []
  for path in paths(results):
    record = read(path)
    if record.status == "running":
      logging.warning(
        "%s says that its run is running, but nobody runs it here: it was "
        "killed, and counts as interrupted.",
        path,
      )
      record = record.model_copy(update={"status": "interrupted"})
    filed.append(Filed(path, record))
  return filed


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
  n, mean, std = len(values), statistics.fmean(values), None
  if n > 1:
    std = math.sqrt(math.fsum((x - mean) ** 2 for x in values) / (n - 1))
  return Summary(mean, std, n)
