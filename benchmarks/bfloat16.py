"""Compares training in bfloat16 with float32's spread over seeds.

  python benchmarks/bfloat16.py

tunes a prompt on a ladder task from several seeds (of the prompt and the order
of examples), each in float32 and in bfloat16 activations and frozen weights. It
compares the difference of losses for the same seed with the spread over seeds.
Writes `results/benchmarks/bfloat16.json` and prints it as a table.
"""

import argparse
import json
import pathlib
import tempfile
from typing import Any

import pandas as pd

import harness

_DTYPES = ("float32", "bfloat16")


def train(
  args: argparse.Namespace, dtype: str, seed: int, folder: pathlib.Path
) -> dict[str, Any]:
  """Trains; returns the mean loss of each period, and the last score."""
  lines = harness.train(
    folder,
    (f"models/{args.model}", "recipes/prompt_tuning"),
    {
      "MIXTURE_OR_TASK_NAME": args.task,
      "ACTIVATION_DTYPE": dtype,
      "PARAMETER_DTYPE": dtype,
      "RANDOM_SEED": seed,
      "SHUFFLE_SEED": seed,
      "BATCH_SIZE": 32,
      "PROMPT_LENGTH": 20,
      "TRAIN_STEPS_RELATIVE": args.steps,
      "EVAL_PERIOD": args.steps,
      "STATS_PERIOD": args.period,
    },
  )
  record = json.loads((folder / "record.json").read_text())
  return {
    "losses": [x["train/loss"] for x in lines if "train/loss" in x],
    "score": record["evals"][-1]["score"],
  }


def tabulate(record: dict[str, Any]) -> str:
  """Returns a table with a row for each period; losses are nats per batch."""
  exact, rounded = (
    pd.DataFrame([run["losses"] for run in record[dtype]]).T
    for dtype in _DTYPES
  )
  apart = (exact - rounded).abs()
  table = pd.DataFrame(
    {
      "float32": exact.mean(axis=1),
      "bfloat16": rounded.mean(axis=1),
      "std over seeds": exact.std(axis=1),
      "range over seeds": exact.max(axis=1) - exact.min(axis=1),
      "apart, mean": apart.mean(axis=1),
      "most": apart.max(axis=1),
    }
  )
  table.insert(0, "Steps to", (table.index + 1) * record["period"])
  scores = (
    f"{dtype} {', '.join('{score:.1f}'.format(**x) for x in record[dtype])}"
    for dtype in _DTYPES
  )
  text = table.to_string(index=False, float_format="{:.4f}".format)
  return f"{text}\nScores by seed: {'; '.join(scores)}."


def main() -> None:
  parser = harness.parser(__doc__)
  add = parser.add_argument
  add("--model", default="ladder_s", help="a file of gin/models")
  add("--task", default="ladder_boolq", help="a task of the ladder")
  add("--seeds", type=int, default=4, help="number of seeds, two or more")
  add("--steps", type=int, default=200, help="of training")
  add("--period", type=int, default=20, help="steps in the mean of a loss")
  args = parser.parse_args()
  record = {"model": args.model, "task": args.task, "period": args.period}
  with tempfile.TemporaryDirectory() as place:
    for dtype in _DTYPES:
      record[dtype] = [
        train(args, dtype, seed, pathlib.Path(place, f"{dtype}{seed}"))
        for seed in range(args.seeds)
      ]
  print(tabulate(record))
  harness.write("bfloat16", record)


if __name__ == "__main__":
  main()
