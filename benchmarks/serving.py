"""How well many prompts are served: speed, equality, load and kills.

  python benchmarks/serving.py --part=mixed --part=equality

Parts: `mixed` (fifty prompts against one, and against PEFT with `set_adapter`
for each request), `equality` (answers under load against `t5x.infer`'s), `load`
(a server at the highest rate that holds, then at twice that), `kills` (SIGKILL
of worker and server), `starts` (what a server and the demo take to answer).
`--quick` makes everything small and keeps no record.
Writes a record for each part and model below `results/serving/`, and
`results/serving.md` from all records; `--tabulate` does only that.
"""

import t5x  # noqa: F401  # Before what imports TensorFlow, to keep that quiet.

# isort: split

import datetime
import json
import pathlib
import tempfile
from typing import Any

from absl import app, flags, logging
import numpy as np
from traffic import kills, load, mixed, starts

import prompt_tuning as pt
from prompt_tuning.text_tables import Table
from t5x import records

FLAGS = flags.FLAGS
PARTS = ("mixed", "equality", "load", "kills", "starts")
flags.DEFINE_multi_enum("part", [], PARTS, "What to do; unset: all.")
flags.DEFINE_bool("quick", False, "Everything small; keeps no record.")
flags.DEFINE_bool("tabulate", False, "Write the table from the records.")
flags.DEFINE_string(
  "checkpoint", "checkpoints/ladder_m/lm_100", "The frozen model."
)
flags.DEFINE_string("task", "ladder_boolq", "Whose inputs are asked.")
flags.DEFINE_float("seconds", 600.0, "Of load.")

_RESULTS = pathlib.Path(__file__).parents[1] / "results"
_RECORDS = _RESULTS / "serving"
_TABLE = _RESULTS / "serving.md"


def run(part: str, scratch: pathlib.Path) -> dict[str, Any]:
  """Does one part and returns its record."""
  quick = FLAGS.quick
  if part == "mixed":
    found = mixed.throughput(
      pt.load(FLAGS.checkpoint),
      FLAGS.task,
      number=160 if quick else 800,
      rounds=2 if quick else 7,
      folder=scratch,
    )
  elif part == "equality":
    found = mixed.equality(
      pt.load(FLAGS.checkpoint), FLAGS.task, 50 if quick else 500, scratch
    )
  elif part == "load":
    found = load.under_load(
      FLAGS.checkpoint, FLAGS.task, 20.0 if quick else FLAGS.seconds, scratch
    )
  elif part == "kills":
    found = kills.kills(FLAGS.checkpoint, FLAGS.task, scratch)
  else:
    found = starts.starts(FLAGS.checkpoint, scratch)
  return {
    "part": part,
    "checkpoint": FLAGS.checkpoint,
    "task": FLAGS.task,
    "date": datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds"),
    **records.environment(("torch", "transformers", "peft", "uvicorn")),
    **found,
  }


def rows(record: dict[str, Any]) -> list[tuple[str, str, str]]:
  """What a record shows: (what, asked, measured)."""
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
    what = f"answers that are t5x.infer's, {record['prompts']} prompts"
    return [(what, str(record["inputs"]), str(record["same"]))]
  if record["part"] == "load":
    return load.rows(record)
  if record["part"] == "kills":
    return kills.rows(record)
  return starts.rows(record)


def _spread(values: np.ndarray) -> str:
  return f"{np.median(values):.2f} [{values.min():.2f}, {values.max():.2f}]"


def tabulate() -> None:
  """Writes the table of all records."""
  lines = [
    "<!-- Written by `python benchmarks/serving.py --tabulate`. -->",
    "# Serving",
    "",
    "Ratios are of turns beside each other: median, least and most.",
    "",
  ]
  found = [json.loads(path.read_text()) for path in _RECORDS.glob("*.json")]
  for record in sorted(
    found, key=lambda x: (PARTS.index(x["part"]), x["checkpoint"])
  ):
    lines += [
      f"## {record['part']}: {record['checkpoint']}, {record['date'][:10]}",
      "",
      Table(("", "asked", "measured"), rows(record)).markdown(),
    ]
  _TABLE.write_text("\n".join(lines).rstrip() + "\n")


def main(argv: list[str]) -> None:
  if len(argv) > 1:
    raise app.UsageError(f"Expected flags only, got {argv[1:]}.")
  logging.set_verbosity(logging.WARNING)
  for part in [] if FLAGS.tabulate else FLAGS.part or PARTS:
    with tempfile.TemporaryDirectory(prefix="serving_") as folder:
      record = run(part, pathlib.Path(folder))
    for row in rows(record):
      print(f"{part}: {row[0]}: {row[2]}" + (f" ({row[1]})" * bool(row[1])))
    if not FLAGS.quick:
      _RECORDS.mkdir(exist_ok=True)
      model = FLAGS.checkpoint.removeprefix("checkpoints/").replace("/", "_")
      text = json.dumps(record, indent=1, sort_keys=True) + "\n"
      (_RECORDS / f"{part}_{model}.json").write_text(text)
  if not FLAGS.quick:
    tabulate()


if __name__ == "__main__":
  app.run(main)
