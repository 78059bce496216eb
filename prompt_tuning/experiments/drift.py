"""Drift: records that today's files would not make again.

A record has the settings of its run, and today's files and code give settings
to each cell; the base model has a fingerprint; a prompt that a run starts from
has its own record. Where they differ, the record is listed until it is
made again.
"""

from collections.abc import Iterable, Iterator, Mapping

from prompt_tuning.experiments.results import Results
from t5x.configuration import identity

PAGE = "drift.md"
_ABOUT = """# Records that today's files would not make again

Each was made by other settings than its sheet and the gin files now give, by
code that read its data in another order, or from other weights of the base
model or another prompt than lie there now. They stand in the tables, as what
they are: results of what is on the left. `prompt-tuning launch SHEET` makes
those of other settings again, the others once their files here are deleted.
"""


def drifted(results: Results) -> dict[str, str]:
  """Returns the records of a sheet that have drifted.

  Returns:
    Name of the record -> its differences in one line, old -> new.
  """
  return {
    run.stored.name: identity.describe(differences)
    for run in results.runs
    if run.stored and (differences := results.archive.drift(run.cell))
  }


def note(results: Results) -> str | None:
  """Returns a note about a sheet's drifted records, if it has any."""
  found = drifted(results)
  if not found:
    return None
  lines = "".join(
    f"* {text} ({len(names)} records)\n"
    for text, names in _grouped(found).items()
  )
  return (
    f"{len(found)} of {len(results.runs)} cells show records that today's "
    f"files would not make again, old -> new:\n\n{lines}"
  )


def page(every: Iterable[Results]) -> str:
  """Returns the page that lists all drifted records."""
  return "\n".join(_page(_all(every)))


def _all(every: Iterable[Results]) -> dict[str, str]:
  found: dict[str, str] = {}
  for results in every:
    found |= drifted(results)
  return found


def _page(found: Mapping[str, str]) -> Iterator[str]:
  yield _ABOUT
  if not found:
    yield "None.\n"
  for text, names in _grouped(found).items():
    yield f"## {text}\n"
    yield "".join(f"* `{name}`\n" for name in sorted(names))


def _grouped(found: Mapping[str, str]) -> dict[str, list[str]]:
  """Returns differences -> the names of the records that have them."""
  groups: dict[str, list[str]] = {}
  for name, text in found.items():
    groups.setdefault(text, []).append(name)
  return groups


def hidden(every: Iterable[Results], shown: str) -> list[str]:
  """Returns a line for each drifted record that a committed page leaves out.

  Args:
    every: Results of all sheets.
    shown: The text of the page.
  """
  listed, heading = set(), ""
  for line in shown.splitlines():
    if line.startswith("## "):
      heading = line.removeprefix("## ")
    elif line.startswith("* `"):
      listed.add((line.removeprefix("* `").rstrip("`"), heading))
  return [f"{x}: {y}" for x, y in sorted(_all(every).items() - listed)]
