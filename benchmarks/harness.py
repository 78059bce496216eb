"""Flags, records, processes and spreads, for all benchmarks.

It imports our code only inside functions, because other sides use other code.
"""

import argparse
from collections.abc import Iterable, Mapping, Sequence
import datetime
import json
import pathlib
import statistics
import subprocess
import sys
from typing import Any

ROOT = pathlib.Path(__file__).parents[1]
RESULTS = ROOT / "results"
RECORDS = RESULTS / "benchmarks"


def parser(description: str) -> argparse.ArgumentParser:
  """Returns a flag parser whose help starts with a module's docstring."""
  return argparse.ArgumentParser(
    description=description,
    formatter_class=argparse.RawDescriptionHelpFormatter,
  )


def write(
  name: str, record: Mapping[str, Any], packages: Sequence[str] = ()
) -> None:
  """Writes a record with the date and the environment.

  Args:
    name: Path below `RECORDS`, without the suffix.
    record: The other fields.
    packages: More packages whose versions are recorded.
  """
  from t5x.runs import records

  now = datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds")
  record = {"date": now, **records.environment(packages), **record}
  path = RECORDS / f"{name}.json"
  path.parent.mkdir(parents=True, exist_ok=True)
  path.write_text(json.dumps(record, indent=1, sort_keys=True) + "\n")


def records(folder: str) -> list[dict[str, Any]]:
  """Returns the records in a folder below `RECORDS`."""
  return [
    json.loads(x.read_text()) for x in sorted((RECORDS / folder).glob("*.json"))
  ]


def machine(record: Mapping[str, Any]) -> str:
  """Names the cores and the CPU of a record."""
  device = record["device"]
  return f"{device['cpus']} cores of {device['cpu']}"


def page(
  command: str, title: str, about: Sequence[str], sections: Iterable[str]
) -> str:
  """Returns a page of records.

  Args:
    command: The script that writes it, with its flags.
    title: The page's title.
    about: Lines of the introduction.
    sections: Further lines.
  """
  note = f"<!-- Written by `python benchmarks/{command}`. -->"
  lines = [note, f"# {title}", "", *about, "", *sections]
  return "\n".join(lines).rstrip() + "\n"


def gin_flags(names: Iterable[str], macros: Mapping[str, Any]) -> list[str]:
  """Returns `t5x` flags for gin files (paths below `gin/`) and macros."""
  return [
    *(f"--gin_file=gin/{name}.gin" for name in names),
    *(f"--gin.{name}={value!r}" for name, value in macros.items()),
  ]


def train(
  folder: pathlib.Path,
  gin_files: Iterable[str],
  bindings: Mapping[str, Any],
  flags: Iterable[str] = (),
) -> list[dict[str, Any]]:
  """Runs `python -m t5x.train`; returns the lines of its metrics."""
  macros = {"MODEL_DIR": str(folder), **bindings}
  words = ["-m", "t5x.train", *gin_flags(gin_files, macros), *flags]
  subprocess.run([sys.executable, *words], stdout=sys.stderr, check=True)
  return metrics(folder)


def metrics(folder: pathlib.Path) -> list[dict[str, Any]]:
  """Returns the lines of the metrics of a run."""
  lines = (folder / "metrics.jsonl").read_text().splitlines()
  return list(map(json.loads, lines))


def process_bytes(name: str, file: str = "status", pid: Any = "self") -> int:
  """Reads a size of a process, such as its peak memory, "VmHWM", in bytes."""
  for line in pathlib.Path(f"/proc/{pid}/{file}").read_text().splitlines():
    if line.startswith(f"{name}:"):
      return int(line.split()[1]) * 1024
  raise ValueError(f"There is no {name} in {file}.")


def spread(values: Iterable[float]) -> str:
  """Returns the median, the least and the greatest value as text."""
  values = list(values)
  return (
    f"{statistics.median(values):.2f} ({min(values):.2f} to {max(values):.2f})"
  )
