"""Compares training in bfloat16 with float32's spread over seeds.

  python benchmarks/bfloat16.py

tunes a prompt on a ladder task from several seeds (of prompt and order of
examples), each in float32 and in bfloat16, for activations and frozen weights.
It compares the losses of the same seed with the spread over seeds.
Writes `results/benchmarks/bfloat16.json` and prints a table of it.
"""

import json
import os
import pathlib
import statistics
import subprocess
import sys
import tempfile
from typing import Any

from absl import app, flags

from peers import report
from prompt_tuning.experiments.text_tables import Table
from t5x.runs import records

FLAGS = flags.FLAGS
flags.DEFINE_string("model", "ladder_s", "A file of gin/models.")
flags.DEFINE_string("task", "ladder_boolq", "A task of the ladder.")
flags.DEFINE_integer("seeds", 4, "How many.", lower_bound=2)
flags.DEFINE_integer("steps", 200, "Of training.")
flags.DEFINE_integer("period", 20, "Steps over which a loss is averaged.")

_ROOT = pathlib.Path(__file__).parents[1]
_DTYPES = ("float32", "bfloat16")


def train(dtype: str, seed: int, folder: str) -> dict[str, Any]:
  """Trains; returns the mean loss of each period, and the last score."""
  done = subprocess.run(
    [
      *(sys.executable, "-m", "t5x.train"),
      f"--gin_file=gin/models/{FLAGS.model}.gin",
      "--gin_file=gin/recipes/prompt_tuning.gin",
      f"--gin.MIXTURE_OR_TASK_NAME='{FLAGS.task}'",
      f"--gin.ACTIVATION_DTYPE='{dtype}'",
      f"--gin.PARAMETER_DTYPE='{dtype}'",
      f"--gin.RANDOM_SEED={seed}",
      f"--gin.SHUFFLE_SEED={seed}",
      "--gin.BATCH_SIZE=32",
      "--gin.PROMPT_LENGTH=20",
      f"--gin.TRAIN_STEPS_RELATIVE={FLAGS.steps}",
      f"--gin.EVAL_PERIOD={FLAGS.steps}",
      f"--gin.STATS_PERIOD={FLAGS.period}",
      f"--gin.MODEL_DIR='{folder}'",
    ],
    cwd=_ROOT,
    env={**os.environ, "PYTHONPATH": f"{_ROOT}:{_ROOT / 'runtime'}"},
    stdout=subprocess.DEVNULL,
    stderr=subprocess.PIPE,
    text=True,
    check=False,
  )
  if done.returncode:
    raise ValueError(f"A run of {dtype} failed:\n{done.stderr[-2000:]}")
  lines = (pathlib.Path(folder) / "metrics.jsonl").read_text().splitlines()
  losses = [
    x["train/loss"] for x in map(json.loads, lines) if "train/loss" in x
  ]
  record = json.loads((pathlib.Path(folder) / "record.json").read_text())
  return {
    "losses": losses,
    "score": record["evals"][-1]["score"],
  }


def tabulate(record: dict[str, Any]) -> str:
  """Returns a table with a row for each period; losses are nats of a batch."""
  rows = []
  losses = {
    dtype: list(zip(*(run["losses"] for run in record[dtype]), strict=True))
    for dtype in _DTYPES
  }
  for i, (exact, rounded) in enumerate(
    zip(*(losses[dtype] for dtype in _DTYPES), strict=True)
  ):
    apart = [abs(a - b) for a, b in zip(exact, rounded, strict=True)]
    rows.append(
      (
        str((i + 1) * record["period"]),
        f"{statistics.mean(exact):.4f}",
        f"{statistics.mean(rounded):.4f}",
        f"{statistics.stdev(exact):.4f}",
        f"{max(exact) - min(exact):.4f}",
        f"{statistics.mean(apart):.4f}",
        f"{max(apart):.4f}",
      )
    )
  scores = {
    dtype: ", ".join(f"{run['score']:.1f}" for run in record[dtype])
    for dtype in _DTYPES
  }
  return (
    Table(
      (
        "Steps to",
        "float32",
        "bfloat16",
        "std over seeds",
        "range over seeds",
        "apart, mean",
        "most",
      ),
      rows,
    ).markdown()
    + f"\nScores by seed: float32 {scores['float32']}; "
    f"bfloat16 {scores['bfloat16']}."
  )


def main(argv: list[str]) -> None:
  if len(argv) > 1:
    raise app.UsageError(f"Expected flags only, got {argv[1:]}.")
  record = {
    "model": FLAGS.model,
    "task": FLAGS.task,
    "period": FLAGS.period,
    **records.environment(),
  }
  with tempfile.TemporaryDirectory() as place:
    for dtype in _DTYPES:
      record[dtype] = [
        train(dtype, seed, f"{place}/{dtype}{seed}")
        for seed in range(FLAGS.seeds)
      ]
  print(tabulate(record))
  report.write("bfloat16", record)


if __name__ == "__main__":
  app.run(main)
