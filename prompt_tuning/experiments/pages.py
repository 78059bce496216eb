"""Pages: a sheet's table, figure and runs, as the files in `results/tables`.

One page lists drifted records, which today's files would not reproduce. A
record holds its run's settings, its base model's fingerprint and the record of
the prompt it started from. If any of them differs from what today's sheet, gin
files and code give, the page lists the record until the cell is run again.
"""

import collections
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
import re
import shlex

from prompt_tuning.experiments import figures, records, tables
from prompt_tuning.experiments.results import Results
from prompt_tuning.experiments.text_tables import Table
from t5x.configuration import identity

HOURS_PAGE, DRIFT_PAGE = "hours.md", "drift.md"
_ABOUT_DRIFT = """# Records that today's files would not reproduce

A record is listed here if its run differs from what today's files give: in
its settings, the order of its data, the weights of its base model, the prompt
it started from, or its files of examples. Each heading shows the difference,
old -> new. The tables still show these records, with their old settings.
`prompt-tuning launch SHEET` runs a cell again if its settings differ; for any
other difference, delete the record first.
"""
_ABOUT_HOURS = """# Runs and their hours

Each row is a sheet in `configs`, with the number of its cells and the hours of
those that have results. Core hours are hours times the cores available to the
run. If several sheets share a run, it counts in each of their rows and once in
the sums. `prompt-tuning launch SHEET` runs the missing cells of a sheet, and
with `--retry-failed` its failed cells too; `prompt-tuning pretrain` makes the
models of `ladder`. The sheets in `full` need TPUs or GPUs.
"""
_NOTE = (
  "Mean ± sample standard deviation over runs with different seeds; the "
  "number of runs is in brackets."
)
_GAP_NOTE = (
  "A gap compares the seeds that both have; its deviation is that of the "
  "difference between two single runs."
)
_ENDS = "Ours, at the end of each run"
_ENDS_NOTE = (
  "As above, but each run counts with its last evaluation instead of its best. "
  "Where the columns are steps, it is the last evaluation up to that step."
)
_FIGURE_NOTE = (
  "Our bands and bars show one sample standard deviation on either side."
)
_ARROW_NOTE = "An arrow marks a score below the axis, with its value beside it."
_START = r"<!-- (?:ours|paper): "
_BLOCK = re.compile(
  r"(<!-- (ours|paper): (\S+) -->\n)(?:(?!<!--).)*(<!-- end -->\n)", re.DOTALL
)


def sheet_files(results: Results, stem: str | None = None) -> dict[str, bytes]:
  """Makes the files of a sheet.

  Args:
    results: Of the sheet.
    stem: Of the files' names; by default the sheet's.

  Returns:
    Name of the file -> content. Nothing if there are no results yet.
  """
  if not results.exist:
    return {}
  stem = stem or results.sheet.name.replace("/", "_")
  figure = figures.draw(results)
  drawn = figures.render(figure) if figure else {}
  texts = _texts(results)
  page = _markdown(results, texts, stem if figure else None)
  beside = [results.beside] if results.beside else []
  files = {
    "md": "\n".join(page).encode(),
    "tex": latex(texts).encode(),
    "csv": tables.csv_text([results, *beside]).encode(),
  }
  return {f"{stem}.{suffix}": x for suffix, x in (drawn | files).items()}


def latex(texts: Mapping[str, Table]) -> str:
  """Writes tables in LaTeX, each below its title."""
  return "\n".join(f"% {title}\n{x.latex()}" for title, x in texts.items())


def _texts(results: Results) -> dict[str, Table]:
  """Returns the tables of a page, by their headings."""
  layout, beside = results.sheet.layout, results.beside
  texts = {"Ours": tables.table(results)}
  if layout.mean_over == "task":
    texts["Ours, by task"] = tables.table_by_task(results)
  if layout.kind == "scores":
    ends = tables.table(results, at_end=True)
    if ends != texts["Ours"]:
      texts[_ENDS] = ends
  if beside and beside.exist:
    texts[f"Ours: {beside.sheet.title}"] = tables.table(beside)
  if paper := results.paper:
    texts[f"The paper's: {paper.source}"] = tables.paper_table(paper)
  return texts


def _markdown(
  results: Results, texts: Mapping[str, Table], image: str | None
) -> Iterator[str]:
  """Yields the parts of the page."""
  sheet = results.sheet
  yield f"# {sheet.title}\n\n{sheet.about.strip()}\n"
  for title, text in texts.items():
    yield f"## {title}\n\n{text.markdown()}"
    if title == "Ours" and sheet.layout.kind == "scores":
      yield f"{_NOTE} {_GAP_NOTE}\n" if sheet.layout.gaps else f"{_NOTE}\n"
    elif title == _ENDS:
      yield f"{_ENDS_NOTE}\n"
  if results.paper and results.paper.note:
    yield f"{results.paper.note.strip()}\n"
  if image:
    yield f"![{sheet.title}]({image}.svg)\n"
    arrow = f" {_ARROW_NOTE}" if sheet.layout.figure == "dots" else ""
    yield f"{_FIGURE_NOTE}{arrow}\n"
  yield "## The runs\n"
  yield from _runs(results)


def _runs(results: Results) -> Iterator[str]:
  """Yields the lines on the sheet's runs, their devices and other records."""
  sheet = results.sheet
  stored = [run.stored for run in results.runs if run.stored]
  states = collections.Counter(x.record.status for x in stored)
  missing = len(results.runs) - len(stored)
  counts = [f"{n} {state}" for state, n in sorted(states.items())]
  if missing:
    counts.append(f"{missing} not run yet")
  done = [run.record for run in results.runs if run.record]
  hours = sum(record.seconds for record in done) / 3600
  yield (
    f"{len(results.runs)} cells: {', '.join(counts)}; {hours:.1f} hours in "
    f"all. Budget: {sheet.budget}.\n"
  )
  yield f"Devices: {_counted(map(_device, done))}.\n"
  commits = (
    (x.commit or "unknown")[:7] + " + changes" * bool(x.uncommitted_changes)
    for x in done
  )
  yield f"Commits: {_counted(commits)}.\n"
  if drifted := drift_note(results):
    yield drifted
  today = [results.archive.current(run.cell) for run in results.runs]
  failed = {
    x.path: x for x in (*stored, *today) if x and x.record.status == "failed"
  }
  for x in failed.values():
    yield f"* {x.path.stem}: {x.record.error}\n"
  others = [
    x
    for x in results.archive.stored
    if x.name.rpartition("/")[0] == sheet.name
    and all(x is not y for y in (*stored, *failed.values()))
  ]
  if others:
    yield "Records with other settings, which the table leaves out:\n"
    yield "".join(
      f"* `{x.path.stem}`: {x.record.status}"
      + (f", best {x.record.score:.1f}" if x.record.scores else "")
      + (f": {x.record.error}\n" if x.record.error else "\n")
      for x in others
    )
  cells = [run.cell for run in results.runs]
  cell = next((x for x in cells if x.kind == "train"), cells[0])
  words = [shlex.join(cell.command[:3]), *map(shlex.quote, cell.command[3:])]
  command = " \\\n  ".join(words)
  yield (
    f"The command of one cell:\n\n```sh\n{command}\n```\n\n"
    f"`{sheet.launch_command}` runs the missing cells.\n"
  )


def _device(record: records.RunRecord) -> str:
  device = record.device
  if device is None:
    return "unknown"
  if device.platform == "cpu":
    cores = f"{device.cpus} core{'' if device.cpus == 1 else 's'}"
    return f"{device.cpu or 'CPU'}, {cores}"
  return f"{device.count} x {device.kind}"


def _counted(names: Iterable[str]) -> str:
  counts = collections.Counter(names)
  return ", ".join(f"{name} ({n} runs)" for name, n in sorted(counts.items()))


def drifted(every: Iterable[Results]) -> dict[str, list[str]]:
  """Returns differences in one line, old -> new, and the records with them."""
  texts: dict[str, str] = {}
  for results in every:
    for cell, stored in ((x.cell, x.stored) for x in results.runs if x.stored):
      if differences := results.archive.differences(stored.record, cell):
        texts[stored.name] = identity.describe(differences)
  found: dict[str, list[str]] = {}
  for name, text in texts.items():
    found.setdefault(text, []).append(name)
  return found


def drift_note(results: Results) -> str | None:
  """Returns a note about a sheet's drifted records, if it has any."""
  found = drifted([results])
  if not found:
    return None
  lines = "".join(
    f"* {x} ({len(names)} records)\n" for x, names in found.items()
  )
  return (
    f"{sum(map(len, found.values()))} of {len(results.runs)} cells show "
    "records that today's files would not reproduce, old -> new:\n\n"
    f"{lines}"
  )


def drift_page(every: Iterable[Results]) -> str:
  """Returns the page that lists all drifted records."""
  parts = [_ABOUT_DRIFT]
  for text, names in drifted(every).items():
    listed = "".join(f"* `{name}`\n" for name in sorted(names))
    parts += [f"## {text}\n", listed]
  return "\n".join(parts if len(parts) > 1 else [_ABOUT_DRIFT, "None.\n"])


def hours_page(every: Iterable[Results]) -> str:
  """Returns the page of the time that all records took, in Markdown."""
  rows: list[Sequence[str]] = []
  unique: dict[str, records.RunRecord] = {}
  for results in every:
    name = results.sheet.name
    done = [run.record for run in results.runs if run.record]
    unique |= {
      x.stored.name: x.record for x in results.runs if x.stored and x.record
    }
    failed = sum(run.failed for run in results.runs)
    missing = f"{len(results.runs) - len(done) - failed}"
    rows.append(
      (
        f"[{name}]({name.replace('/', '_')}.md)" if results.exist else name,
        str(len(results.runs)),
        str(len(done)),
        f"{missing}, {failed} failed" if failed else missing,
        *_hours(done),
      )
    )
  sums = _hours(unique.values())
  rows.append(("All, each run once", "", str(len(unique)), "", *sums))
  header = ("Sheet", "Cells", "Run", "Not run", "Hours", "Core hours")
  return f"{_ABOUT_HOURS}\n{Table(header, rows).markdown()}"


def _hours(done: Collection[records.RunRecord]) -> tuple[str, str]:
  """Writes the hours of wall time and the core hours."""
  cores = [(x.device.cpus if x.device else None) or 1 for x in done]
  wall = [x.seconds / 3600 for x in done]
  core_hours = sum(hours * n for hours, n in zip(wall, cores, strict=True))
  return f"{sum(wall):.1f}", f"{core_hours:.1f}"


def fill(page: str, every: Mapping[str, Results]) -> str:
  """Writes tables into a page of prose.

  Args:
    page: Markdown. "<!-- ours: SHEET -->" or "<!-- paper: SHEET -->" and
      "<!-- end -->", on separate lines, enclose the place of a table.
    every: Name of a sheet -> its results.

  Returns:
    The page, with our table of the sheet there, or the paper's.

  Raises:
    ValueError: if there is no such sheet, or no such table, or no end.
  """

  def table(match: re.Match[str]) -> str:
    start, whose, name, end = match.groups()
    if name not in every:
      raise ValueError(f"{start.strip()} names no sheet of {sorted(every)}.")
    results = every[name]
    if whose == "ours":
      text = tables.table(results)
    elif results.sheet.paper:
      text = tables.paper_table(results.sheet.paper)
    else:
      raise ValueError(
        f"{start.strip()}: the sheet has no numbers of the paper."
      )
    return f"{start}\n{text.markdown()}\n{end}"

  filled, count = _BLOCK.subn(table, page)
  if count != len(re.findall(_START, page)):
    raise ValueError("A table's place has no <!-- end --> after it.")
  return filled
