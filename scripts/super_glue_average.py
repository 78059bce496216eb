"""Puts single-task runs together: their scores, and the SuperGLUE average.

  python scripts/super_glue_average.py RECORD [RECORD...]

A RECORD is the `record.json` of a run of t5x.train, of which the best
evaluation counts, or of t5x.eval. With a record of each of the eight tasks, the
last line is the score that the paper plots.
"""

import argparse
import json
import pathlib
import sys
from typing import Any

from prompt_tuning.data import metrics


def scores(record: dict[str, Any]) -> dict[str, dict[str, float]]:
  """Task -> metric -> percent, of the evaluation that counts.

  Raises:
    ValueError: if the run did not get to one.
  """
  evaluation = record.get("best") or next(iter(record.get("evals") or ()), None)
  if record["status"] != "finished" or not evaluation:
    raise ValueError(f"expected a finished run, got one {record['status']}")
  return evaluation["metrics"]


def main() -> None:
  parser = argparse.ArgumentParser(
    description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
  )
  parser.add_argument("records", nargs="+", type=pathlib.Path, metavar="RECORD")
  metrics_by_task = {}
  for path in parser.parse_args().records:
    try:
      for task, values in scores(json.loads(path.read_text())).items():
        if task in metrics_by_task:
          raise ValueError(f"{task} is in another record too")
        metrics_by_task[task] = values
    except (OSError, KeyError, ValueError) as error:
      sys.exit(f"Error: {path}: {error}.")
  for task, values in sorted(metrics_by_task.items()):
    text = "  ".join(f"{name} {value:.1f}" for name, value in values.items())
    print(f"{task:32} {text}")
  if not metrics.is_super_glue(metrics_by_task):
    sys.exit(f"No average without each of: {', '.join(metrics.SUPER_GLUE)}.")
  average = metrics.super_glue_average(metrics_by_task)
  print(f"{'super_glue_average':32} {average:.1f}")


if __name__ == "__main__":
  main()
