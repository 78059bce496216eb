"""Stored records of runs: their scores, and how a cell finds its record.

`t5x.train` and `t5x.eval` leave a `record.json`. `results/` holds copies, from
which the tables are made.
"""

from collections.abc import Iterator
import contextlib
import dataclasses
import datetime
import functools
import glob
import os
import pathlib
import statistics

from absl import logging

import prompt_tuning
from prompt_tuning.experiments.cells import Cell
from t5x import checkpoints
from t5x.configuration import identity, resolution
from t5x.configuration.identity import Difference, RunConfiguration
from t5x.runs import record_schema

# Not a score: the share of answers that are not labels.
INVALID = "invalid"
# Ends the name of a mixture's own metric: the mean of its tasks' metrics.
AVERAGE = "_average"
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
      if not any(name.endswith(AVERAGE) for name in metrics):
        values = [x for name, x in metrics.items() if name != INVALID]
        if values:
          scores[task] = sum(values) / len(values)
    return scores

  @property
  def score(self) -> float:
    """The mean score over its tasks, in [0, 100]."""
    return statistics.fmean(self.scores.values())

  def only(self, metric: str) -> "RunRecord":
    """Returns the record as if the named metric were its only one."""

    def only(x: record_schema.Evaluation) -> record_schema.Evaluation:
      metrics = {
        task: {metric: values[metric]}
        for task, values in x.metrics.items()
        if metric in values
      }
      return x.model_copy(update={"metrics": metrics})

    best = self.best and only(self.best)
    return self.model_copy(
      update={"evals": list(map(only, self.evals)), "best": best}
    )

  def after(self, steps: int) -> "RunRecord | None":
    """Returns the record as it would be had the run ended early.

    At a constant learning rate that is what a shorter run would have left.

    Args:
      steps: Counted from the run's first.

    Returns:
      The record, or None if the run had fewer steps, or was not evaluated
      by then.
    """
    if self.steps is None:
      return None
    last = self.steps.last if self.step is None else self.step
    if last - self.steps.first < steps:
      return None
    evals = [x for x in self.evals if x.step - self.steps.first <= steps]
    scored = [x for x in evals if x.score is not None]
    if not scored:
      return None
    every = [x.score for x in self.evals if x.score is not None]
    # A run whose best is its least score, such as a loss, compares by that.
    sign = 1 if self.best and self.best.score == min(every) else -1
    best = min(scored, key=lambda x: (sign * (x.score or 0), x.step))
    return self.model_copy(update={"evals": evals, "best": best})


def read(path: pathlib.Path) -> RunRecord:
  """Reads the record in a file; raises ValueError if it is not one."""
  return record_schema.parse(path.read_bytes(), str(path), RunRecord)


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


class Archive:
  """Records of runs, and the configurations that today's files give to cells.

  A cell's record is one of a run with its configuration, even if the gin files
  and macros had other names then. Without such a record, it is the one in the
  cell's own place, which has drifted: today's files give other settings.
  """

  def __init__(
    self,
    root: pathlib.Path = pathlib.Path(),
    results: pathlib.Path | None = None,
  ):
    """Reads records.

    They are stored once their runs have ended, so one that says "running" is of
    a run that was killed: it is read as interrupted, with a warning. Of two of
    one configuration, the first one with results counts.

    Args:
      root: The folder that paths of gin files and checkpoints start from.
      results: Holds a folder of records for each sheet; None for no records.
        Files in it and in its `benchmarks` are not records of runs.

    Raises:
      ValueError: if a file is not a record.
    """
    self.stored: list[StoredRecord] = []
    paths = results.glob("*/**/*.json") if results else ()
    for path in sorted(paths):
      relative = path.relative_to(results or root)
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
      self.stored.append(StoredRecord(name, path, record))
    self._root = root
    folders = [str(root), prompt_tuning.gin_search_path()]
    self._bindings = functools.cache(
      lambda files: resolution.Bindings(files, paths=folders)
    )
    self._fingerprint = functools.cache(self._read_fingerprint)
    self._configurations: dict[Cell, RunConfiguration] = {}
    self._by_hash: dict[str | None, StoredRecord] = {}
    self._by_name = {x.name: x for x in self.stored}
    for x in sorted(self.stored, key=lambda x: not x.record.counts):
      self._by_hash.setdefault(x.record.hash, x)

  def configuration(self, cell: Cell) -> RunConfiguration:
    """Returns the configuration that today's files give to a cell.

    Gin files are read as text, so that thousands of cells take seconds.

    Raises:
      ValueError: if a gin file is missing or cannot be parsed.
    """
    if cell not in self._configurations:
      texts = [f"{name} = {value}" for name, value in cell.bindings.items()]
      try:
        bindings = resolution.Bindings(
          texts=texts, start=self._bindings(cell.gin_files)
        )
      except ValueError as e:
        raise ValueError(f"{cell.full_name}: {e}") from e
      found = RunConfiguration.from_bindings(cell.kind, bindings)
      self._configurations[cell] = found
    return self._configurations[cell]

  def current(self, cell: Cell) -> StoredRecord | None:
    """Returns the record with a cell's configuration, whatever its status."""
    today = self.configuration(cell).hash
    own = self._by_name.get(cell.full_name)  # Before another sheet's.
    if own is not None and own.record.counts and own.record.hash == today:
      return own
    return self._by_hash.get(today)

  def find(self, cell: Cell) -> StoredRecord | None:
    """Returns the record to show for a cell, whichever sheet it was run for."""
    own = self._by_name.get(cell.full_name)
    if own and not (own.record.configuration and own.record.kind == cell.kind):
      own = None
    found = filter(None, (self.current(cell), own))
    # Results of other settings are not given up for a failure.
    return min(found, key=lambda x: not x.record.counts, default=None)

  def record(self, cell: Cell) -> RunRecord | None:
    """Returns the content of `current`."""
    stored = self.current(cell)
    return stored.record if stored else None

  def differences(self, record: RunRecord, cell: Cell) -> list[Difference]:
    """Returns how a cell's run would differ from its record today.

    Args:
      record: The record of a run of the cell.
      cell: The cell.

    Returns:
      Settings that change numbers, other weights of the base model, prompts
      that it started from and that have been trained again since, and files of
      examples that have been written since.
    """
    before, today = record.run_configuration, self.configuration(cell)
    settings = before.differences(today) if before else []
    found = [x for x in settings if identity.is_measured(x.name)]
    if base := record.base:
      folder = os.path.dirname(base.path)
      # Given a folder, a run takes the newest checkpoint in it.
      is_newest = folder and repr(folder) in today.settings.values()
      now = self._fingerprint(folder if is_newest else base.path)
      if now not in (None, base.fingerprint):
        name = f"weights of {base.name or base.path}"
        found.append(Difference(name, base.fingerprint[:8], now[:8]))
    for name in cell.data_files:
      with contextlib.suppress(OSError):  # It may be in a bucket, or gone.
        seconds = (self._root / name).stat().st_mtime
        now = datetime.datetime.fromtimestamp(int(seconds), datetime.UTC)
        if now > record.began:
          old, new = f"before {record.began}", f"written {now}"
          found.append(Difference(f"file {name}", old, new))
    for pattern in cell.prompt_patterns:
      for name, maker in find_prompts(pattern, self._root):
        if maker and maker.ended > record.began:
          old, new = f"before {record.began}", f"made {maker.ended}"
          found.append(Difference(f"prompt {name}", old, new))
    return found

  def _read_fingerprint(self, path: str) -> str | None:
    """Returns the fingerprint of weights; None if they are not there."""
    try:  # Not all models are in the repository.
      return checkpoints.open_checkpoint(str(self._root / path)).fingerprint
    except (OSError, ValueError):
      return None
