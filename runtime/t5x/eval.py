"""Evaluates a model: `python -m t5x.eval --gin_file=... --gin.X=...`."""

from collections.abc import Callable

from t5x.configuration import command_flags

if __name__ == "__main__":
  command_flags.show_help_if_asked("eval")  # Before slow imports.

import jax

from t5x import gin_utils
from t5x.metrics import MetricsByTask
from t5x.runs import command_line, records
from t5x.runs.evaluation import InferenceEvaluator, evaluate

# T5X has the evaluator here, too.
__all__ = ["InferenceEvaluator", "evaluate", "main"]


def main(evaluate: Callable[..., MetricsByTask]) -> None:
  """Evaluates, and prints the metrics.

  Args:
    evaluate: `evaluation.evaluate`, its arguments bound.

  Raises:
    SystemExit: after a signal; the same command starts again from the
      beginning.
  """
  with command_line.running("eval", "example") as arguments:
    metrics = evaluate(**arguments)
  if jax.process_index() == 0:
    for task, values in metrics.items():
      print(records.format_metrics(task, values), flush=True)


if __name__ == "__main__":
  gin_utils.run_entry_point(evaluate, main)
