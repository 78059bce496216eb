"""Runs the same commands on Google's T5X and on `runtime/`, and compares.

  python tests/google_t5x/compare.py --t5x=DIR --airio=DIR --jestimator=DIR

The folders are checkouts of google-research/t5x, google/airio and
google-research/jestimator; docs/google_t5x.md says what else T5X needs. The
outcome goes to tests/google_t5x/outcome.json and results/google_t5x.md. No part
of CI.
"""

import t5x  # noqa: F401  # Before what imports TensorFlow, to keep that quiet.

# isort: split

import argparse
import json
import os
import pathlib
import re
import shutil
import subprocess
import sys
from typing import Any

import commands
import outcome as outcome_lib

from t5x.runs import records

ROOT = pathlib.Path(__file__).resolve().parents[2]
OUTCOME = ROOT / "tests" / "google_t5x" / "outcome.json"
PAGE = ROOT / "results" / "google_t5x.md"
# The same computation in vectors of another width, which rounds elsewhere.
OTHER_ROUNDING = "--xla_cpu_max_isa=AVX2"


def main() -> None:
  args = _arguments()
  paths = {
    "google": [ROOT, args.t5x, args.airio, args.jestimator, *args.extra],
    "ours": [ROOT, ROOT / "runtime"],
  }
  rows = _rows_before(args)
  for model in args.models:
    for command in commands.commands(model):
      if not re.search(args.commands, command.name):
        continue
      row = _run(command, model, paths, args)
      rows[model, command.name] = row
      outcome_lib.write(_outcome(rows, args), OUTCOME, PAGE)
      print(outcome_lib.table({"rows": [row]}).splitlines()[-1], flush=True)
  print(outcome_lib.table({"rows": list(rows.values())}))
  failed = [name for name, row in rows.items() if not outcome_lib.holds(row)]
  if failed:
    sys.exit(f"Not the same on both: {failed}; logs are in {args.work}.")


def _arguments() -> argparse.Namespace:
  parser = argparse.ArgumentParser(
    description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
  )
  for flag in ("--t5x", "--airio", "--jestimator"):
    parser.add_argument(flag, required=True, type=pathlib.Path)
  parser.add_argument(
    "--extra",
    action="append",
    default=[],
    type=pathlib.Path,
    help="a folder with packages that T5X alone needs; repeatable",
  )
  parser.add_argument(
    "--revisions", default="not given", help="of the sources, for the page"
  )
  parser.add_argument(
    "--models", nargs="*", default=list(commands.TASKS), metavar="MODEL"
  )
  parser.add_argument(
    "--commands", default="", metavar="REGEX", help="which; others are kept"
  )
  parser.add_argument(
    "--work", default="runs/google_t5x", help="relative to the root"
  )
  return parser.parse_args()


def _rows_before(args: argparse.Namespace) -> dict[tuple[str, str], Any]:
  """Returns what was committed of commands that are not run now."""
  before = json.loads(OUTCOME.read_text())["rows"] if OUTCOME.exists() else []
  found = {(row["model"], row["command"]): row for row in before}
  return {
    (model, name): row
    for (model, name), row in found.items()
    if model not in args.models or not re.search(args.commands, name)
  }


def _run(
  command: commands.Command,
  model: str,
  paths: dict[str, list[pathlib.Path]],
  args: argparse.Namespace,
) -> dict[str, Any]:
  """Runs a command on both runtimes; returns a row of the outcome."""
  row: dict[str, Any] = {
    "model": model,
    "command": command.name,
    "program": command.program,
    "commit": records.environment()["commit"],
  }
  out = {name: f"{args.work}/{model}/{name}" for name in (*paths, "again")}
  folders = {name: ROOT / command.folder(out[name]) for name in out}
  for name, path in paths.items():
    row[name] = _start(command, out[name], folders[name], path)
  if not row["google"] == row["ours"] == 0:
    return row
  row |= outcome_lib.compare(folders["google"], folders["ours"])
  if not command.is_compared:
    return {**row, "is_compared": False}
  if command.program == "train" and not _start(
    command, out["again"], folders["again"], paths["google"], OTHER_ROUNDING
  ):
    again = outcome_lib.compare(folders["google"], folders["again"])
    row["own_difference"] = again["loss_difference"]
  return row


def _start(
  command: commands.Command,
  out: str,
  folder: pathlib.Path,
  path: list[pathlib.Path],
  xla_flags: str = "",
) -> int:
  """Runs a command anew, with a log beside its folder; returns its status."""
  shutil.rmtree(folder, ignore_errors=True)
  folder.parent.mkdir(parents=True, exist_ok=True)
  with open(f"{folder}.log", "w", encoding="utf-8") as log:
    return subprocess.run(
      [sys.executable, *command.arguments(out)],
      cwd=ROOT,
      env={
        **os.environ,
        "PYTHONPATH": os.pathsep.join(map(str, path)),
        "TF_CPP_MIN_LOG_LEVEL": "3",
        "XLA_FLAGS": f"{os.environ.get('XLA_FLAGS', '')} {xla_flags}".strip(),
      },
      stdout=log,
      stderr=subprocess.STDOUT,
      check=False,
    ).returncode


def _outcome(
  rows: dict[tuple[str, str], Any], args: argparse.Namespace
) -> dict[str, Any]:
  environment = records.environment()
  device = environment["device"]
  order = [(m, c.name) for m in commands.TASKS for c in commands.commands(m)]
  return {
    "revisions": args.revisions,
    "versions": environment["versions"],
    "device": f"CPU, {device['cpus']} cores, {device['cpu']}",
    "rows": [rows[key] for key in order if key in rows],
  }


if __name__ == "__main__":
  main()
