"""Tests whether SPoT's similarities predict the gain of a start.

  python benchmarks/similarity.py

reads the records of the sheet `spot`. For each run that started from another
task's prompt, it computes the similarities of that prompt, as in `prompt-tuning
library`, to the prompt of the run that started from words, and the gain over
that run in as many steps. Writes `results/spot.md` and `results/spot.png`.
"""

from collections.abc import Iterator
from typing import Any

from matplotlib.figure import Figure
import pandas as pd

import harness
from prompt_tuning import prompt_files
from prompt_tuning.experiments import records, sheets
from prompt_tuning.experiments.text_tables import Table
from prompt_tuning.inference import prompt_library

_STEPS = (0, 50, 100, 250, 500)
_MEASURES = ("cosine of means", "mean cosine")
_WORDS = "words"


def gains() -> pd.DataFrame:
  """Returns a row for each run from another task's prompt.

  Returns:
    Columns source, task, seed, both measures, and, for each number of steps,
    the gain after them in points.
  """
  archive = records.Archive(harness.ROOT, harness.RESULTS)
  cells = sheets.load("spot", harness.ROOT / "configs").cells()
  found = {tuple(x.point.values()): (x, archive.find(x)) for x in cells}

  def rows() -> Iterator[dict[Any, Any]]:
    for point, (cell, run) in found.items():
      source = cell.point["source"]
      words = tuple(_WORDS if x == source else x for x in point)
      _, start = found[words]
      if source == _WORDS or run is None or start is None:
        continue
      (path,) = cell.prompt_patterns
      prompts = (
        prompt_files.load_prompt(x)[0]
        for x in (start.path.with_suffix(".safetensors"), harness.ROOT / path)
      )
      measures = prompt_library.similarities(*prompts)
      row: dict[Any, Any] = {
        x: cell.point[x] for x in ("source", "task", "seed")
      }
      row |= dict(zip(_MEASURES, measures, strict=True))
      for steps in _STEPS:
        ours, theirs = (x.record.after(steps) for x in (run, start))
        if ours and theirs:
          row[steps] = ours.score - theirs.score
      yield row

  return pd.DataFrame(rows())


def page(frame: pd.DataFrame) -> str:
  """Returns the page of the gains."""
  ranks = frame[[*_MEASURES, *_STEPS]].corr(method="spearman")
  means = frame[list(_STEPS)]
  rows = [("Mean gain, points", *means.mean()), ("Best start", *_best(frame))]
  rows += [(f"Most similar start, {x}", *_chosen(frame, x)) for x in _MEASURES]
  rows += [("Share above 0", *(100 * (means > 0).mean()))]
  correlations = [(x, *ranks.loc[x, list(_STEPS)]) for x in _MEASURES]
  header = ("", *(f"{x} steps" for x in _STEPS))
  about = [
    f"{len(frame)} runs of [spot](tables/spot.md) that started from another",
    "task's prompt, against the run of that task and seed that started from",
    "words. Similarities are of the start and that run's last prompt.",
  ]
  lines = [
    Table(header, _texts(rows, "{:+.1f}")).markdown(),
    "Spearman's rank correlation of similarity with gain:",
    "",
    Table(header, _texts(correlations, "{:+.2f}")).markdown(),
    "![Gain against similarity](spot.png)",
  ]
  title = "Do similar prompts make better starts?"
  return harness.page("similarity.py", title, about, lines)


def _texts(rows, form: str) -> list[tuple[str, ...]]:
  return [(name, *map(form.format, values)) for name, *values in rows]


def _best(frame: pd.DataFrame) -> pd.Series:
  return frame.groupby(["task", "seed"])[list(_STEPS)].max().mean()


def _chosen(frame: pd.DataFrame, measure: str) -> pd.Series:
  rows = frame.groupby(["task", "seed"])[measure].idxmax()
  return frame.loc[rows, list(_STEPS)].mean()


def draw(frame: pd.DataFrame, steps: int = 250) -> Figure:
  """Draws the gain after some steps against both similarities."""
  figure = Figure(figsize=(9, 3.8), layout="constrained")
  panels = figure.subplots(1, len(_MEASURES), sharey=True)
  for panel, measure in zip(panels, _MEASURES, strict=True):
    for task, rows in frame.groupby("task"):
      name = str(task).removeprefix("ladder_")
      panel.plot(rows[measure], rows[steps], "o", label=name, markersize=4)
    panel.axhline(0, color="grey", linewidth=0.8)
    panel.set_xlabel(measure)
    panel.grid(alpha=0.3)
  panels[0].set_ylabel(f"Gain after {steps} steps, points")
  panels[0].legend(fontsize="small")
  return figure


def main() -> None:
  harness.parser(__doc__).parse_args()
  frame = gains()
  if frame.empty:
    raise SystemExit("There are no records: prompt-tuning launch spot")
  (harness.RESULTS / "spot.md").write_text(page(frame))
  draw(frame).savefig(harness.RESULTS / "spot.png", dpi=110)


if __name__ == "__main__":
  main()
