"""Breaks things on purpose, and counts the effects.

  python benchmarks/reliability.py kills hosts
  python benchmarks/reliability.py --short
  python benchmarks/reliability.py write

Runs the named parts, by default all, and writes a record of each to
`results/benchmarks/reliability/`, and `results/reliability.md` from all
records; `write` only writes the page. If a part is stopped, for example by
Ctrl-C, its record has the finished cases, and no other part follows; the same
command runs the remaining cases. With --short, for CI, everything is small and
no record is kept; if a count that must be zero is not, the status is 1.
"""

import t5x  # noqa: F401  # Before any import of TensorFlow, to keep it quiet.

# isort: split

from collections.abc import Iterable, Mapping
import importlib
import pathlib
import shutil
import signal
import sys
import time
import tomllib
from typing import Any

import harness
from prompt_tuning.experiments.text_tables import Table
from reliability_parts.cases import SHARED, Counts

# Part, a module of `reliability_parts` with a function `run` -> its texts.
PARTS: dict[str, dict[str, Any]] = tomllib.loads(
  pathlib.Path(__file__)
  .with_name("reliability_parts")
  .joinpath("parts.toml")
  .read_text()
)


def run(name: str, place: pathlib.Path, is_full: bool) -> dict[str, Any]:
  """Runs a part, or the rest of it, in a folder; returns its record."""
  scratch = place / name
  scratch.mkdir(parents=True, exist_ok=True)
  module = importlib.import_module(f"reliability_parts.{name}")
  start = time.monotonic()
  counts = module.run(scratch, full=is_full)
  return {
    "part": name,
    "command": f"python benchmarks/reliability.py {name}",
    "counts": counts,
    "seconds": round(time.monotonic() - start),
  }


def bad(name: str, counts: Counts) -> dict[str, int | float]:
  """Returns the counts that must be zero but are not."""
  names = (*PARTS[name]["bad"], "broken")
  return {x: counts[x] for x in names if counts.get(x)}


def page(records: Iterable[Mapping[str, Any]]) -> str:
  """Returns a page of records, which names the parts without a record."""
  found = {record["part"]: record for record in records}
  about, lines = "Things were broken on purpose, and this was counted.", []
  for name, part in PARTS.items():
    lines += [f"## {part['title']}", "", f"Asked: {part['bar']}.", ""]
    if name not in found:
      lines += [f"`python benchmarks/reliability.py {name}` was not run.", ""]
      continue
    record = found[name]
    commit = str(record["commit"])[:7]
    counts = [
      (key.replace("_", " "), f"{value:,.6g}")
      for key, value in record["counts"].items()
    ]
    lines += [
      f"`{record['command']}`: {record['date'][:10]}, commit {commit}, "
      f"{harness.machine(record)}.",
      "",
      Table(("", "counted"), counts).markdown(),
    ]
  return harness.page("reliability.py write", "Reliability", [about], lines)


def write() -> None:
  """Writes the page from the records."""
  text = page(harness.records("reliability"))
  (harness.RESULTS / "reliability.md").write_text(text)


def _run_all(
  parts: Iterable[str], place: pathlib.Path, is_short: bool
) -> dict[str, Any]:
  """Runs parts; returns the counts of each that must be zero but are not."""
  problems: dict[str, Any] = {}
  for name in parts:
    print(f"== {name}", flush=True)
    record = run(name, place, not is_short)
    counts = record["counts"]
    print(", ".join(f"{k} {x:,.6g}" for k, x in counts.items()), flush=True)
    problems |= {name: bad(name, counts)} if bad(name, counts) else {}
    if not is_short:
      harness.write(f"reliability/{name}", record)
      write()
    if counts.get("done") != counts.get("planned"):
      sys.exit("Stopped: the same command runs the other cases.")
    if name not in problems:  # Keeps failed cases for inspection.
      shutil.rmtree(place / name)
  return problems


def main() -> None:
  parser = harness.parser(__doc__)
  add = parser.add_argument
  choice = f"write, or some of: {', '.join(PARTS)}"
  add("parts", nargs="*", metavar="PART", help=choice)
  add("--short", action="store_true", help="everything small; keeps no record")
  folder = harness.ROOT / "runs" / "reliability"
  about = "the folder of unfinished parts"
  add("--output", type=pathlib.Path, default=folder, help=about)
  args = parser.parse_args()
  unknown = set(args.parts) - set(PARTS)
  if unknown and args.parts != ["write"]:
    parser.error(f"Expected {choice}; got {', '.join(sorted(unknown))}.")
  # Keeps the finished cases when a batch system ends the command.
  signal.signal(signal.SIGTERM, signal.default_int_handler)
  if args.parts == ["write"]:
    write()
    return
  place = args.output / ("short" if args.short else "full")
  try:
    problems = _run_all(args.parts or PARTS, place, args.short)
  finally:
    shutil.rmtree(place / SHARED, ignore_errors=True)
  if problems:
    sys.exit(
      f"These counts must be zero: {problems}. {place} has the cases; remove a "
      "part's folder there to run it again."
    )


if __name__ == "__main__":
  main()
