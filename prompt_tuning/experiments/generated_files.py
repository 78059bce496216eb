"""The tables, figures and pages that the committed records make."""

from collections.abc import Collection, Mapping, Sequence
import pathlib

from prompt_tuning.experiments import drift, pages, sheets, toml_files
from prompt_tuning.experiments.archive import Archive
from prompt_tuning.experiments.results import Results

# Pages whose tables are filled in.
_PAGES = ("README.md", "docs/results.md")
_TABLES = "results/tables"


def write(root: pathlib.Path, given: Sequence[str]) -> str:
  """Writes the files of sheets.

  Args:
    root: Folder with configs/ and results/.
    given: Names or paths of sheets; empty for all of them.

  Returns:
    A note that names the files, and the sheets without results.

  Raises:
    ValueError: if there is no such sheet, or a record or a sheet is wrong.
  """
  files, empty = _files(root, given)
  pages.write(files, root)
  others = sorted(x for x in files if not x.startswith(f"{_TABLES}/"))
  count = len(files) - len(others)
  note = ", ".join([f"Written: {count} files in {_TABLES}", *others]) + "."
  return note + (f"\nNo results yet: {', '.join(empty)}." if empty else "")


def differences(
  root: pathlib.Path, given: Sequence[str]
) -> tuple[Sequence[str], list[str]]:
  """Compares the files of sheets with those that the records make now.

  Args:
    root: As of `write`.
    given: As of `write`.

  Returns:
    The files that differ, each with the kind of difference; and a line for
    each record that today's files would not make and that no page lists.

  Raises:
    ValueError: as `write` does.
  """
  files, _ = _files(root, given)
  wrong = pages.differences(files, root, None if given else _TABLES)
  if not wrong:
    return [], []
  listed = root / _TABLES / drift.PAGE
  shown = listed.read_text(encoding="utf-8") if listed.exists() else ""
  hidden = drift.hidden(_results(root).values(), shown)
  return wrong, [f"Not on {_TABLES}/{drift.PAGE}: {line}" for line in hidden]


def _files(
  root: pathlib.Path, given: Sequence[str]
) -> tuple[dict[str, bytes], list[str]]:
  """Returns path below `root` -> content; and the sheets without results."""
  configs = root / "configs"
  wanted = {sheets.name_of(x, configs, without_runs=True) for x in given}
  every = _results(root)
  if not given:  # Another project may lack the pages without runs.
    own = {x for x in sheets.NO_RUNS if (configs / f"{x}.toml").exists()}
    wanted = {*every, *own}
  made = {
    sheet: pages.sheet_files(results)
    for sheet, results in every.items()
    if sheet in wanted
  }
  files = {
    f"{_TABLES}/{name}": content
    for own in made.values()
    for name, content in own.items()
  }
  files[f"{_TABLES}/{drift.PAGE}"] = drift.page(every.values()).encode()
  files[f"{_TABLES}/{pages.HOURS_PAGE}"] = pages.hours_page(
    every.values()
  ).encode()
  for name in _PAGES:
    page = root / name
    if page.exists():
      text = pages.fill(page.read_text(encoding="utf-8"), every)
      files[name] = text.encode()
  if wanted & set(sheets.NO_RUNS):
    files |= _without_runs(configs, wanted, every)
  empty = [sheet for sheet, own in made.items() if not own]
  page = "interpretability"
  if page in wanted and f"{_TABLES}/{page}.md" not in files:
    empty.append(page)
  return files, empty


def _results(root: pathlib.Path) -> dict[str, Results]:
  """Returns the name of every sheet -> its results."""
  archive = Archive.load(root / "results")
  every = {x.name: x for x in sheets.load_all(root / "configs")}
  for sheet in every.values():
    if sheet.beside and sheet.beside not in every:
      raise ValueError(f"{sheet.name}: beside: there is no {sheet.beside}.toml")
  return {
    name: Results(
      sheet,
      archive,
      Results(every[sheet.beside], archive) if sheet.beside else None,
    )
    for name, sheet in every.items()
  }


def _without_runs(
  configs: pathlib.Path, wanted: Collection[str], every: Mapping[str, Results]
) -> dict[str, bytes]:
  # They import the models, which takes seconds.
  from prompt_tuning.experiments import claims, interpretability, parameters

  files = {}
  if "interpretability" in wanted:
    page = toml_files.parse(
      configs / "interpretability.toml", interpretability.Page
    )
    if page.sheet not in every:
      raise ValueError(f"interpretability.toml: there is no {page.sheet}.toml")
    text = interpretability.page(page, every[page.sheet], configs.parent)
    if text is not None:
      files[f"{_TABLES}/interpretability.md"] = text.encode()
  if not {"parameters", "claims"} & set(wanted):
    return files
  sheet = toml_files.parse(
    configs / "parameters.toml", parameters.ParameterSheet
  )
  counted = {size: parameters.count(sheet, size) for size in sheet.sizes}
  known = {name: results.sheet for name, results in every.items()}
  if "parameters" in wanted:
    for name, content in parameters.files(sheet, counted).items():
      files[f"{_TABLES}/{name}"] = content
  if "claims" in wanted:
    files["results/claims.md"] = claims.page(
      toml_files.parse(configs / "claims.toml", claims.Claims),
      claims.Sources(sheet, counted, known),
    )
  return files
