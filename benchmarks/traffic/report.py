"""Tables of the records of serving."""

from collections.abc import Iterable, Mapping
from typing import Any

import numpy as np

from prompt_tuning.experiments.text_tables import Table
from traffic import kills, load, starts

PARTS = ("mixed", "equality", "load", "kills", "starts")


def table(records: Iterable[Mapping[str, Any]]) -> str:
  """Returns a page of records."""
  lines = [
    "<!-- Written by `python benchmarks/serving.py --tabulate`. -->",
    "# Serving",
    "",
    "Ratios are of turns beside each other: median, least and most.",
    "",
  ]
  for record in sorted(
    records, key=lambda x: (PARTS.index(x["part"]), x["checkpoint"])
  ):
    device = record["device"]
    lines += [
      f"## {record['part']}: {record['checkpoint']}, {record['task']}",
      "",
      f"{record['date'][:10]}, {device['cpus']} cores of {device['cpu']}.",
      "",
      Table(("", "asked", "measured"), rows(record)).markdown(),
    ]
  return "\n".join(lines).rstrip() + "\n"


def rows(record: dict[str, Any]) -> list[tuple[str, str, str]]:
  """Returns what a record shows: (what, asked, measured)."""
  if record["part"] == "mixed":
    seconds = {k: np.array(v) for k, v in record["seconds"].items()}
    over_one = seconds["one"] / seconds["fifty"]
    number, few = record["requests"], record["requests_of_peft"]
    over_peft = (seconds["peft"] / few) / (seconds["fifty"] / number)
    rate = number / np.median(seconds["fifty"])
    return [
      ("requests a second, 50 prompts of 1 to 100", "", f"{rate:.1f}"),
      ("over one prompt of 50", ">= 0.95", _spread(over_one)),
      ("over PEFT, set_adapter each", ">= 3", _spread(over_peft)),
      ("answers that are PEFT's", f"{few}", f"{record['same_as_peft']}"),
      (
        "memory of 50 prompts, MB",
        "< 50",
        f"{record['prompt_table_bytes'] / 1e6:.1f}",
      ),
    ]
  if record["part"] == "equality":
    asked = str(record["inputs"])
    what = f"answers that are t5x.infer's, {record['prompts']} prompts"
    return [
      (f"{what}, token for token", asked, str(record["same_tokens"])),
      ("the same text", asked, str(record["same_text"])),
      ("tokens of all answers", "", str(record["tokens"])),
      ("different answers", "", str(record["different_answers"])),
    ]
  if record["part"] == "load":
    return load.rows(record)
  if record["part"] == "kills":
    return kills.rows(record)
  return starts.rows(record)


def _spread(values: np.ndarray) -> str:
  return f"{np.median(values):.2f} [{values.min():.2f}, {values.max():.2f}]"
