"""What two runs left behind, and how far apart that is."""

from collections.abc import Mapping, Sequence
import json
import os
import pathlib
from typing import Any

import tensorflow as tf

# Relative to the largest loss.
MAX_LOSS_DIFFERENCE = 1e-5
# The second says that T5X's inference is over.
_SKIPPED = ("metrics.jsonl", ".COMPLETED")


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
        # T5X has a folder train/ with a tag loss, ours one file with both.
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

  Of a run's evaluations, the last.

  Args:
    folder: What a command wrote.
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
    `losses` of both and `loss_difference`, the largest of a step relative to
    the largest loss, where there are any; `examples` and `equal`, how many
    predictions there are and are the same.
  """
  compared: dict[str, Any] = {}
  pair = losses(google), losses(ours)
  # Without a STATS_PERIOD the two log other steps.
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
  """Whether both ran, with the same predictions and losses if compared."""
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
  """Returns the committed page: the table, and what it was made with."""
  commits = sorted({row["commit"][:7] for row in outcome["rows"]})
  versions: Sequence[str] = [
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


def write(outcome: Mapping[str, Any], *paths: pathlib.Path) -> None:
  """Writes the outcome as JSON or as a page, by the suffix."""
  for path in paths:
    text = (
      json.dumps(outcome, indent=1) + os.linesep
      if path.suffix == ".json"
      else page(outcome)
    )
    path.write_text(text, encoding="utf-8")
