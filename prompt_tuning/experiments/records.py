"""Stored records of runs: the files in `results/`, and the scores in them.

`t5x.train` and `t5x.eval` leave a `record.json`. `results/` holds copies, from
which the tables are made.
"""

from collections.abc import Iterator
import dataclasses
import datetime
import glob
import pathlib
import statistics

from absl import logging

from t5x.configuration.identity import RunConfiguration
from t5x.runs import record_schema

# Not a score: the share of answers that are no label.
INVALID = "invalid"
# A mixture's own metric, beside those of its tasks: their mean.
AVERAGE = "super_glue_average"
# Of runs that are over, with results: an action may end one early.
COUNTING = ("finished", "stopped")


class RunRecord(record_schema.Record):
  """A record, and the scores that tables take from it."""

  @property
  def run_configuration(self) -> RunConfiguration | None:
    """The resolved configuration, unless a program without one made it."""
    if self.configuration is None:
      return None
    return RunConfiguration(self.kind, self.configuration.settings)

  @property
  def hash(self) -> str | None:
    """The hash of the configuration, if there is one."""
    return self.configuration.hash if self.configuration else None

  @property
  def counts(self) -> bool:
    """True if the run has results."""
    return self.status in COUNTING

  @property
  def is_over(self) -> bool:
    """True if the run will not resume unless it is retried."""
    return self.counts or self.status == "failed"

  @property
  def began(self) -> datetime.datetime:
    """The time at which its first attempt began."""
    return datetime.datetime.fromisoformat(self.started)

  @property
  def ended(self) -> datetime.datetime:
    """The time of its end if it ran without a break; at most the real one."""
    return self.began + datetime.timedelta(seconds=int(self.seconds))

  @property
  def scores(self) -> dict[str, float]:
    """Task -> the mean of its metrics, in [0, 100], as in the paper.

    They are those of the best checkpoint on dev.
    """
    last = self.evals[-1].metrics if self.evals else {}
    scores = {}
    for task, metrics in (self.best.metrics if self.best else last).items():
      if AVERAGE not in metrics:
        values = [x for name, x in metrics.items() if name != INVALID]
        scores[task] = sum(values) / len(values)
    return scores

  @property
  def score(self) -> float:
    """The mean score over its tasks, in [0, 100]."""
    return statistics.fmean(self.scores.values())

  def at_its_end(self) -> "RunRecord":
    """Returns the record with the metrics of its last evaluation."""
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
    ValueError: if it is not one.
  """
  return record_schema.parse(text, where, RunRecord)


def read(path: pathlib.Path) -> RunRecord:
  """Reads the record in a file; raises ValueError if it is not one."""
  return parse(path.read_text(encoding="utf-8"), str(path))


def find_prompts(
  pattern: str, root: pathlib.Path
) -> Iterator[tuple[str, RunRecord | None]]:
  """Finds prompts, and the records of the runs that trained them.

  Args:
    pattern: A pattern of paths, such as `cells.Cell.prompt_patterns` gives.
    root: The folder that the paths start from.

  Yields:
    The path of each prompt, and the record beside it: a file of its name in
    `results`, `record.json` in a run's folder. None if there is neither.

  Raises:
    ValueError: if such a file is not a record.
  """
  for name in sorted(glob.glob(pattern, root_dir=root)):
    path = root / name
    beside = (path.with_suffix(".json"), path.with_name("record.json"))
    found = next((x for x in beside if x.exists()), None)
    yield name, read(found) if found else None


@dataclasses.dataclass(frozen=True)
class StoredRecord:
  """A record in `results/`.

  Attributes:
    name: Its path below `results`, without the suffix; `cells.Cell.full_name`
      of the cell that it was stored for.
    path: The file.
    record: Its content.
  """

  name: str
  path: pathlib.Path
  record: RunRecord


def load(results: pathlib.Path) -> list[StoredRecord]:
  """Reads all records below a folder, by name.

  Records are stored once their runs have ended, so one that says "running" is
  of a run that was killed: it is read as interrupted, with a warning.

  Args:
    results: Holds a folder of records for each sheet. Files in it and in its
      `benchmarks` are not records of runs.

  Raises:
    ValueError: if a file is not a record.
  """
  stored = []
  for path in sorted(results.glob("*/**/*.json")):
    relative = path.relative_to(results)
    if relative.parts[0] == "benchmarks":
      continue
    record = read(path)
    if record.status == "running":
      logging.warning(
        "%s says that its run is running, but no run writes here: it was "
        "killed, and counts as interrupted.",
        path,
      )
      record = record.model_copy(update={"status": "interrupted"})
    name = relative.with_suffix("").as_posix()
    stored.append(StoredRecord(name, path, record))
  return stored
