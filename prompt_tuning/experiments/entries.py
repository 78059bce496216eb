"""Entries: what a place in a table says of the runs that it stands for."""

from collections.abc import Mapping
import dataclasses
import functools
import math

from prompt_tuning.experiments import records
from prompt_tuning.experiments.layouts import AxisValue

# A place with no score.
NONE = "-"

# Values of some axes: a row of a table, or which repetition a run is.
Row = tuple[AxisValue, ...]


@dataclasses.dataclass(frozen=True)
class Entry:
  """What a place in a table has to say.

  Attributes:
    scores: Repetition, such as a seed -> score, of those that are there.
    failed: How many runs failed.
  """

  scores: Mapping[Row, float]
  failed: int = 0

  @functools.cached_property
  def summary(self) -> records.Summary | None:
    """Of the scores, or None."""
    return records.summarize(self.scores.values())

  def __str__(self) -> str:
    if self.summary is None:
      return "failed" if self.failed else NONE
    mean, std = self.summary.mean, self.summary.std
    text = f"{mean:.1f}" if std is None else f"{mean:.1f} ± {std:.1f}"
    return f"{text} ({self.summary.n})"


def entry_of(scores: Mapping[Row, float | None]) -> Entry:
  """What scores of runs say, where None is that of a failed one."""
  done = {k: x for k, x in scores.items() if x is not None}
  return Entry(done, len(scores) - len(done))


def gap(over: Entry | None, under: Entry | None) -> records.Summary | None:
  """By how much one is above the other, in points, if both are there.

  Of the seeds that both have, if they have one in common. The deviation is that
  of the difference of two single runs, n the smaller one.
  """
  if over is None or under is None:
    return None
  common = over.scores.keys() & under.scores.keys()
  a, b = (
    records.summarize(
      x for k, x in e.scores.items() if not common or k in common
    )
    for e in (over, under)
  )
  if a is None or b is None:
    return None
  std = None if a.std is None or b.std is None else math.hypot(a.std, b.std)
  return records.Summary(a.mean - b.mean, std, min(a.n, b.n))
