"""Measures serving many prompts: speed, equality, load and kills.

  python benchmarks/serving.py --part=mixed --part=equality

Parts: `mixed` (fifty prompts against one, and against PEFT with `set_adapter`
for each request), `equality` (answers under load against `t5x.infer`'s), `load`
(a server at the highest sustainable rate, then at twice that), `kills` (SIGKILL
of worker and server), `starts` (time and memory until a server answers).
`--quick` runs a small version and keeps no record.
Writes a record for each part and model below `results/benchmarks/serving/`, and
`results/serving.md` from all records; `--tabulate` only writes the page.
"""

import t5x  # noqa: F401  # Before what imports TensorFlow, to keep that quiet.

# isort: split

import datetime
import json
import pathlib
import tempfile
from typing import Any

from absl import app, flags, logging

import prompt_tuning as pt
from t5x.files import compilation_cache
from t5x.runs import records
from traffic import kills, load, mixed, report, starts

FLAGS = flags.FLAGS
flags.DEFINE_multi_enum("part", [], report.PARTS, "What to do; unset: all.")
flags.DEFINE_bool("quick", False, "Everything small; keeps no record.")
flags.DEFINE_bool("tabulate", False, "Write the table from the records.")
flags.DEFINE_string(
  "checkpoint", "checkpoints/ladder_m/lm_100", "The frozen model."
)
flags.DEFINE_string("task", "ladder_boolq", "Whose inputs are asked.")
flags.DEFINE_integer("requests", 800, "Of a turn of mixed traffic.")
flags.DEFINE_float("seconds", 600.0, "Of load.")

_RESULTS = pathlib.Path(__file__).parents[1] / "results"
_RECORDS = _RESULTS / "benchmarks" / "serving"
_TABLE = _RESULTS / "serving.md"


def run(part: str, scratch: pathlib.Path) -> dict[str, Any]:
  """Runs one part and returns its record."""
  quick = FLAGS.quick
  if part == "mixed":
    found = mixed.throughput(
      pt.load(FLAGS.checkpoint),
      FLAGS.task,
      number=160 if quick else FLAGS.requests,
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


def tabulate() -> None:
  """Writes the table of all records."""
  found = [json.loads(path.read_text()) for path in _RECORDS.glob("*.json")]
  _TABLE.write_text(report.table(found))


def main(argv: list[str]) -> None:
  if len(argv) > 1:
    raise app.UsageError(f"Expected flags only, got {argv[1:]}.")
  logging.set_verbosity(logging.WARNING)
  compilation_cache.enable()
  for part in [] if FLAGS.tabulate else FLAGS.part or report.PARTS:
    with tempfile.TemporaryDirectory(prefix="serving_") as folder:
      record = run(part, pathlib.Path(folder))
    for row in report.rows(record):
      print(f"{part}: {row[0]}: {row[2]}" + (f" ({row[1]})" * bool(row[1])))
    if not FLAGS.quick:
      _RECORDS.mkdir(parents=True, exist_ok=True)
      model = FLAGS.checkpoint.removeprefix("checkpoints/").replace("/", "_")
      text = json.dumps(record, indent=1, sort_keys=True) + "\n"
      (_RECORDS / f"{part}_{model}.json").write_text(text)
  if not FLAGS.quick:
    tabulate()


if __name__ == "__main__":
  app.run(main)
