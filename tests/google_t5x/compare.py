"""Runs the same commands on Google's T5X and on `runtime/`, and compares.

  python tests/google_t5x/compare.py --t5x=DIR --airio=DIR --jestimator=DIR

The folders are checkouts of google-research/t5x, google/airio and
google-research/jestimator; docs/google_t5x.md says what else T5X needs. The
outcome goes to tests/google_t5x/outcome.json and results/google_t5x.md. CI does
not run this.
"""

import t5x  # noqa: F401  # This keeps later imports of TensorFlow quiet.

# isort: split

import argparse
from collections.abc import Mapping
import json
import os
import pathlib
import shutil
import subprocess
import sys
from typing import Any

import commands
import tensorflow as tf

from t5x.runs import records

ROOT = pathlib.Path(__file__).resolve().parents[2]
OUTCOME = ROOT / "tests" / "google_t5x" / "outcome.json"
PAGE = ROOT / "results" / "google_t5x.md"
# The same computation with vectors of another width rounds differently.
OTHER_ROUNDING = "--xla_cpu_max_isa=AVX2"
# A fraction of the largest loss.
MAX_LOSS_DIFFERENCE = 1e-5
# T5X's inference writes the second when it is over.
_SKIPPED = ("metrics.jsonl", ".COMPLETED")


def main() -> None:
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
    "--work", default="runs/google_t5x", help="relative to the root"
  )
  args = parser.parse_args()
  paths = {
    "google": [ROOT, args.t5x, args.airio, args.jestimator, *args.extra],
    "ours": [ROOT, ROOT / "runtime"],
  }
  rows: list[dict[str, Any]] = []
  environment = records.environment()
  for model in commands.TASKS:
    for command in commands.commands(model):
      row = {
        "model": model,
        "command": command.name,
        "program": command.program,
        "commit": environment["commit"],
      }
      rows.append(row | _run(command, f"{args.work}/{model}", paths))
      print(table({"rows": rows[-1:]}).splitlines()[-1], flush=True)
  device = environment["device"]
  outcome = {
    "revisions": args.revisions,
    "versions": environment["versions"],
    "device": f"CPU, {device['cpus']} cores, {device['cpu']}",
    "rows": rows,
  }
  OUTCOME.write_text(json.dumps(outcome, indent=1) + "\n")
  PAGE.write_text(page(outcome))
  failed = [(row["model"], row["command"]) for row in rows if not holds(row)]
  if failed:
    sys.exit(f"Not the same on both: {failed}; logs are in {args.work}.")


def _run(
  command: commands.Command, work: str, paths: dict[str, list[pathlib.Path]]
) -> dict[str, Any]:
  """Runs a command on both runtimes; returns fields of its row."""
  folders = {
    name: ROOT / command.folder(f"{work}/{name}") for name in (*paths, "again")
  }

  def start(name: str, runtime: str, xla_flags: str = "") -> int:
    """Runs the command with a log beside its folder; returns its status."""
    shutil.rmtree(folders[name], ignore_errors=True)
    folders[name].parent.mkdir(parents=True, exist_ok=True)
    with open(f"{folders[name]}.log", "w", encoding="utf-8") as log:
      return subprocess.run(
        [sys.executable, *command.arguments(f"{work}/{name}")],
        cwd=ROOT,
        env={
          **os.environ,
          "PYTHONPATH": os.pathsep.join(map(str, paths[runtime])),
          "TF_CPP_MIN_LOG_LEVEL": "3",
          "XLA_FLAGS": f"{os.environ.get('XLA_FLAGS', '')} {xla_flags}".strip(),
        },
        stdout=log,
        stderr=subprocess.STDOUT,
        check=False,
      ).returncode

  told: dict[str, Any] = {name: start(name, name) for name in paths}
  if any(told.values()):
    return told
  told |= compare(folders["google"], folders["ours"])
  if not command.is_compared:
    return {**told, "is_compared": False}
  if command.program == "train" and not start(
    "again", "google", OTHER_ROUNDING
  ):
    again = compare(folders["google"], folders["again"])
    told["own_difference"] = again["loss_difference"]
  return told


def losses(folder: pathlib.Path) -> list[float]:
  """Returns the loss of each step, from TensorBoard's events of `train/`.

  Args:
    folder: A MODEL_DIR.
  """
  by_step = {}
  for path in sorted(folder.rglob("events.out.tfevents.*")):
    for record in tf.data.TFRecordDataset(str(path)).as_numpy_iterator():
      event = tf.compat.v1.Event.FromString(record)
      for value in event.summary.value:
        # T5X has a folder train/ with a tag loss; we have a tag train/loss.
        where = path.parent.relative_to(folder) / value.tag
        if str(where) == "train/loss":
          by_step[event.step] = (
            float(tf.make_ndarray(value.tensor))
            if value.HasField("tensor")
            else value.simple_value
          )
  return [by_step[step] for step in sorted(by_step)]


def predictions(folder: pathlib.Path) -> list[tuple[str, str]]:
  """Returns input and predicted text of each example, sorted.

  The last evaluation of a run is read.

  Args:
    folder: The folder that a command wrote.
  """
  found: list[pathlib.Path] = sorted(
    path
    for path in folder.rglob("*.jsonl*")
    if path.is_file() and not path.name.endswith(_SKIPPED)
  )
  if not found:
    return []
  lines = [json.loads(line) for line in found[-1].read_text().splitlines()]
  return sorted(
    (
      line.get("input", line.get("inputs"))["inputs_pretokenized"],
      str(line.get("output", line["prediction"])),
    )
    for line in lines
  )


def compare(google: pathlib.Path, ours: pathlib.Path) -> dict[str, Any]:
  """Compares what a command left in the folders of two runtimes.

  Returns:
    `losses` of both and `loss_difference`, the largest difference at a step
    relative to the largest loss, if there are losses; `examples` and `equal`,
    the numbers of predictions and of equal ones.
  """
  compared: dict[str, Any] = {}
  pair = losses(google), losses(ours)
  # Without a STATS_PERIOD, the two log different steps.
  if any(pair) and len(pair[0]) == len(pair[1]):
    compared["losses"] = {"google": pair[0], "ours": pair[1]}
    compared["loss_difference"] = max(
      abs(a - b) for a, b in zip(*pair, strict=True)
    ) / max(map(abs, pair[0]))
  texts = predictions(google), predictions(ours)
  compared["examples"] = len(texts[0])
  compared["equal"] = (
    sum(a == b for a, b in zip(*texts, strict=True))
    if len(texts[0]) == len(texts[1])
    else 0
  )
  return compared


def holds(row: Mapping[str, Any]) -> bool:
  """Returns true if both ran and agree in all that is compared."""
  if not row["google"] == row["ours"] == 0 or not row["examples"]:
    return False
  if not row.get("is_compared", True):
    return True
  return row["equal"] == row["examples"] and (
    row["program"] != "train" or row["loss_difference"] <= MAX_LOSS_DIFFERENCE
  )


def table(outcome: Mapping[str, Any]) -> str:
  """Returns the outcome as Markdown."""
  lines = [
    "| Model | Command | Program | T5X | Ours | Loss, 8 steps | "
    "T5X with itself | Predictions |",
    "| --- | --- | --- | --- | --- | ---: | ---: | ---: |",
  ]
  for row in outcome["rows"]:
    lines.append(
      f"| {row['model']} | {row['command']} | {row['program']} | "
      + " | ".join(
        "ran" if row[runtime] == 0 else f"failed ({row[runtime]})"
        for runtime in ("google", "ours")
      )
      + f" | {_difference(row, 'loss_difference')} | "
      + f"{_difference(row, 'own_difference')} | "
      + (f"{row['equal']} of {row['examples']} |" if "examples" in row else "|")
    )
  return "\n".join(lines)


def _difference(row: Mapping[str, Any], name: str) -> str:
  is_shown = name in row and row.get("is_compared", True)
  return f"{row[name]:.1e}" if is_shown else ""


def page(outcome: Mapping[str, Any]) -> str:
  """Returns the committed page: the table, its sources and the device."""
  commits = sorted({row["commit"][:7] for row in outcome["rows"]})
  versions = [
    f"{name} {version}" for name, version in outcome["versions"].items()
  ]
  return (
    "# Google's T5X and this repository's runtime\n\n"
    "Written by `tests/google_t5x/compare.py`; see `docs/google_t5x.md`. The\n"
    "loss is the largest difference of a step, relative to the largest loss,\n"
    "between the two, and between T5X and itself in code for AVX2, which\n"
    "rounds elsewhere. Predictions are those that are equal. A command `as\n"
    "documented` runs at its own rate and length, and is not held to agree.\n\n"
    f"{table(outcome)}\n\n"
    f"Sources: {outcome['revisions']}. Versions: {', '.join(versions)}.\n"
    f"Device: {outcome['device']}. Commits: {', '.join(commits)}; the models'\n"
    "weights are those of these commits, too.\n"
  )


if __name__ == "__main__":
  main()
