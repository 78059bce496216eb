"""Drift: records that today's files would not make again.

What a run was told is in its record. What it would be told today, the gin files
and its sheet say; what the code has changed since, it says itself
(`run_configuration.OF_THE_CODE`); the base model has a fingerprint; a
prompt that it begins with has a record of its own. Where they differ, the
record is listed, until it is made again.
"""

from collections.abc import Iterable, Iterator, Mapping, Sequence
import dataclasses

from prompt_tuning.experiments.results import Results
from t5x.configuration import run_configuration

PAGE = "drift.md"
_ABOUT = """# Records that today's files would not make again

Each was made by other settings than its sheet and the gin files now give, by
code that read its data in another order, or from other weights of the base
model or another prompt than lie there now. They stand in the tables, as what
they are: results of what is on the left. `python scripts/launch.py SHEET` makes
those of other settings again, the others once their files here are deleted.
"""


@dataclasses.dataclass(frozen=True)
class Drifted:
  """A record and what today's files say otherwise.

  Attributes:
    name: Of its file below `results`, without the suffix.
    differences: In one line, old -> new.
  """

  name: str
  differences: str


def of_results(results: Results) -> list[Drifted]:
  """Returns the records of a sheet that have drifted."""
  return [
    Drifted(
      results.archive.name(run.filed),
      run_configuration.describe(differences),
    )
    for run in results.runs
    if run.filed and (differences := results.archive.drift(run.cell))
  ]


def note(results: Results) -> str | None:
  """Returns what there is to say of a sheet's drifted records, if anything."""
  drifted = of_results(results)
  if not drifted:
    return None
  lines = "".join(
    f"* {text} ({len(names)} records)\n"
    for text, names in _grouped(drifted).items()
  )
  return (
    f"{len(drifted)} of {len(results.runs)} cells show records that today's "
    f"files would not make again, old -> new:\n\n{lines}"
  )


def page(every: Iterable[Results]) -> str:
  """Returns the page that lists all drifted records."""
  drifted = {x.name: x for results in every for x in of_results(results)}
  return "\n".join(_page(list(drifted.values())))


def _page(drifted: Sequence[Drifted]) -> Iterator[str]:
  yield _ABOUT
  if not drifted:
    yield "None.\n"
  for text, names in _grouped(drifted).items():
    yield f"## {text}\n"
    yield "".join(f"* `{name}`\n" for name in sorted(names))


def _grouped(drifted: Iterable[Drifted]) -> Mapping[str, list[str]]:
  """Differences -> the names of the records that have them."""
  groups: dict[str, list[str]] = {}
  for x in drifted:
    groups.setdefault(x.differences, []).append(x.name)
  return groups


def hidden(every: Iterable[Results], shown: str) -> list[str]:
  """Returns what a committed page does not say of drifted records.

  Args:
    every: Results of all sheets.
    shown: The text of the page.

  Returns:
    A line for each record that is not listed under its differences.
  """
  return [f"{x}: {y}" for x, y in sorted(_listed(page(every)) - _listed(shown))]


def _listed(text: str) -> set[tuple[str, str]]:
  """The records on a page, each with its differences."""
  listed, heading = set(), ""
  for line in text.splitlines():
    if line.startswith("## "):
      heading = line.removeprefix("## ")
    elif line.startswith("* `"):
      listed.add((line.removeprefix("* `").rstrip("`"), heading))
  return listed
