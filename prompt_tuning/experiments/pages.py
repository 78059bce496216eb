"""Pages: a sheet's table, figure and runs, as the files in `results/tables`."""

import collections
from collections.abc import Iterator, Mapping, Sequence
import pathlib
import re

from prompt_tuning.experiments import figures, records, scores, tables
from prompt_tuning.experiments.sheets import Sheet

Known = Mapping[records.Settings, records.Filed]

_NOTE = (
  "Mean ± sample standard deviation over runs with different seeds, and in "
  "brackets how many there are."
)
_FIGURE_NOTE = (
  "Our bands and bars: one sample standard deviation to either side."
)
_START = r"<!-- (?:ours|paper): "
_BLOCK = re.compile(
  r"(<!-- (ours|paper): (\S+) -->\n)(?:(?!<!--).)*(<!-- end -->\n)", re.DOTALL
)


def of_sheet(
  sheet: Sheet, known: Known, beside: Sheet | None = None
) -> dict[str, bytes]:
  """Makes the files of a sheet.

  Args:
    sheet: The sheet.
    known: The records.
    beside: The sheet of full size, if this one is a miniature of it.

  Returns:
    Name of the file -> content. Nothing if there is no record yet.
  """
  if not any(scores.finished(cell, known) for cell in sheet.cells()):
    return {}
  stem = sheet.name.replace("/", "_")
  figure = figures.of_sheet(sheet, known, beside)
  files = {
    f"{stem}.{suffix}": content
    for suffix, content in (figures.render(figure) if figure else {}).items()
  }
  texts = dict(_texts(sheet, known, beside))
  files[f"{stem}.md"] = "\n".join(
    _markdown(sheet, known, texts, stem if figure else None, beside)
  ).encode()
  files[f"{stem}.tex"] = "\n".join(
    f"% {title}\n{text.latex()}" for title, text in texts.items()
  ).encode()
  lines = tables.score_rows(sheet, known)
  if beside is not None:
    lines += tables.score_rows(beside, known)
  files[f"{stem}.csv"] = tables.csv_text(tables.CSV_HEADER, lines).encode()
  return files


def _texts(
  sheet: Sheet, known: Known, beside: Sheet | None
) -> Iterator[tuple[str, tables.Text]]:
  """The tables of a page: heading -> table."""
  yield "Ours", _own(sheet, known)
  if sheet.layout.mean_over == "task":
    yield "Ours, by task", tables.by_task_text(sheet, known)
  if beside is not None and any(
    scores.finished(cell, known) for cell in beside.cells()
  ):
    yield f"Ours: {beside.title}", _own(beside, known)
  paper = tables.paper_text(beside or sheet)
  if paper is not None:
    yield f"The paper's: {(beside or sheet).paper.source}", paper  # pyright: ignore[reportOptionalMemberAccess]


def _own(sheet: Sheet, known: Known) -> tables.Text:
  if sheet.layout.kind == "ensemble":
    return tables.ensemble_text(sheet, known)
  if sheet.layout.kind == "tasks":
    return tables.task_text(sheet, known)
  return tables.score_text(sheet, known)


def _markdown(
  sheet: Sheet,
  known: Known,
  texts: Mapping[str, tables.Text],
  image: str | None,
  beside: Sheet | None,
) -> Iterator[str]:
  """The parts of the page."""
  yield f"# {sheet.title}\n\n{sheet.about.strip()}\n"
  for title, text in texts.items():
    yield f"## {title}\n\n{text.markdown()}"
    if title == "Ours" and sheet.layout.kind == "scores":
      yield f"{_NOTE}\n"
  note = (beside or sheet).paper and (beside or sheet).paper.note  # pyright: ignore[reportOptionalMemberAccess]
  if note:
    yield f"{note.strip()}\n"
  if image:
    yield f"![{sheet.title}]({image}.svg)\n"
    yield f"{_FIGURE_NOTE}\n"
  yield "## The runs\n"
  yield from _runs(sheet, known)


def _runs(sheet: Sheet, known: Known) -> Iterator[str]:
  """How many cells have run, on what, and what else lies with them."""
  cells = sheet.cells()
  filed = [known[cell.settings] for cell in cells if cell.settings in known]
  states = collections.Counter(x.record.status for x in filed)
  missing = len(cells) - len(filed)
  counts = [f"{n} {state}" for state, n in sorted(states.items())]
  if missing:
    counts.append(f"{missing} not run yet")
  done = [x.record for x in filed if x.record.counts]
  hours = sum(record.seconds for record in done) / 3600
  yield (
    f"{len(cells)} cells: {', '.join(counts)}; {hours:.1f} hours in all. "
    f"Budget: {sheet.budget}.\n"
  )
  yield f"Devices: {_counted(map(_device, done))}.\n"
  yield f"Commits: {_counted(map(_commit, done))}.\n"
  for x in filed:
    if x.record.status == "failed":
      yield f"* {x.path.stem}: {x.record.error}\n"
  others = [
    x
    for x in known.values()
    if x.path.parent.as_posix().endswith(f"/results/{sheet.name}")
    and x.record.command
    and all(x is not y for y in filed)
  ]
  if others:
    yield "Records beside the table, of other settings:\n"
    yield "".join(f"* `{x.path.stem}`: {_state(x.record)}\n" for x in others)
  launch = sheet.launch or f"python scripts/launch.py configs/{sheet.name}.toml"
  yield (
    f"The command of one cell; `{launch}` runs what is missing:\n\n"
    f"```sh\n{_folded(sheet.command)}\n```\n"
  )


def _state(record: records.RunRecord) -> str:
  text = record.status
  if record.scores:
    text += f", best {records.mean_of(record.scores):.1f}"
  return f"{text}: {record.error}" if record.error else text


def _commit(record: records.RunRecord) -> str:
  commit = (record.commit or "unknown")[:7]
  return f"{commit} + changes" if record.uncommitted_changes else commit


def _device(record: records.RunRecord) -> str:
  device = record.device
  if device is None:
    return "unknown"
  if device.platform == "cpu":
    cores = f"{device.cpus} core{'' if device.cpus == 1 else 's'}"
    return f"{device.cpu or 'CPU'}, {cores}"
  return f"{device.count} x {device.kind}"


def _counted(names: Iterator[str]) -> str:
  counts = collections.Counter(names)
  return ", ".join(f"{name} ({n} runs)" for name, n in sorted(counts.items()))


def _folded(command: str) -> str:
  """Breaks a command before each of its arguments."""
  return command.replace(" --", " \\\n  --").replace(" '--", " \\\n  '--")


def fill(page: str, every: Mapping[str, Sheet], known: Known) -> str:
  """Writes tables into a page of prose.

  Args:
    page: Markdown. "<!-- ours: SHEET -->" or "<!-- paper: SHEET -->" and
      "<!-- end -->", on lines of their own, stand around the place of a table.
    every: Name -> sheet.
    known: The records.

  Returns:
    The page, with our table of the sheet there, or the paper's.

  Raises:
    ValueError: if there is no such sheet, or no such table, or no end.
  """

  def table(match: re.Match[str]) -> str:
    start, whose, name, end = match.groups()
    if name not in every:
      raise ValueError(f"{start.strip()} names no sheet of {sorted(every)}.")
    sheet = every[name]
    text = _own(sheet, known) if whose == "ours" else tables.paper_text(sheet)
    if text is None:
      raise ValueError(
        f"{start.strip()}: the sheet has no numbers of the paper."
      )
    return f"{start}\n{text.markdown()}\n{end}"

  filled, count = _BLOCK.subn(table, page)
  if count != len(re.findall(_START, page)):
    raise ValueError("A table's place has no <!-- end --> of its own.")
  return filled


def write(files: Mapping[str, bytes], folder: pathlib.Path) -> None:
  """Writes files into a folder."""
  for name, content in files.items():
    path = folder / name
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(content)


def differences(
  files: Mapping[str, bytes], folder: pathlib.Path, whole: str | None = None
) -> Sequence[str]:
  """Returns the names of files that differ from those in a folder.

  Pictures are compared by their pixels: how they are compressed depends on the
  machine's libraries.

  Args:
    files: Name -> content.
    folder: The folder.
    whole: A folder in it where nothing else may lie.
  """
  wrong = []
  for name, content in sorted(files.items()):
    path = folder / name
    if not path.exists():
      wrong.append(f"{name} is missing")
    elif path.read_bytes() != content and not (
      path.suffix == ".png" and figures.same_pixels(path.read_bytes(), content)
    ):
      wrong.append(f"{name} differs")
  for path in sorted((folder / whole).iterdir()) if whole else ():
    name = path.relative_to(folder).as_posix()
    if name not in files:
      wrong.append(f"{name} belongs to no sheet, remove it")
  return wrong
