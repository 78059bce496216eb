"""What all records took, and what is not run yet."""

from collections.abc import Iterable, Iterator

from prompt_tuning.experiments import records
from prompt_tuning.experiments.results import Results
from prompt_tuning.text_tables import Table

PAGE = "hours.md"
_ABOUT = """# What was run, and what it took

Of every sheet of `configs`: its cells, and the hours of those that have
results; core hours are hours times the cores that a run might use. A run that
stands in several sheets is in each of their rows, and once in the sums. What a
sheet lacks, `prompt-tuning launch SHEET` runs, with `--retry-failed` what
failed too, but `ladder`'s models `prompt-tuning pretrain`. Those of `full`
need TPUs or GPUs.
"""


def page(every: Iterable[Results]) -> str:
  """Returns the page, in Markdown.

  Args:
    every: Results of all sheets.
  """
  every = list(every)
  rows = [_row(results) for results in every]
  unique = {
    run.stored.name: run.stored.record
    for results in every
    for run in results.runs
    if run.stored and run.record
  }
  wall, cores = _hours(unique.values())
  rows.append(("All, each run once", "", str(len(unique)), "", wall, cores))
  header = ("Sheet", "Cells", "Run", "Not run", "Hours", "Core hours")
  return f"{_ABOUT}\n{Table(header, rows).markdown()}"


def _row(results: Results) -> tuple[str, ...]:
  name = results.sheet.name
  done = [run.record for run in results.runs if run.record]
  link = f"[{name}]({name.replace('/', '_')}.md)" if results.some else name
  failed = sum(run.failed for run in results.runs)
  missing = str(len(results.runs) - len(done) - failed)
  if failed:
    missing += f", {failed} failed"
  return (
    link,
    str(len(results.runs)),
    str(len(done)),
    missing,
    *_hours(done),
  )


def _hours(done: Iterable[records.RunRecord]) -> Iterator[str]:
  """Yields hours of wall time, and of cores."""
  done = list(done)
  cores = [(x.device.cpus if x.device else None) or 1 for x in done]
  yield f"{sum(x.seconds for x in done) / 3600:.1f}"
  yield (
    f"{sum(x.seconds * n for x, n in zip(done, cores, strict=True)) / 3600:.1f}"
  )
