"""Evaluates a model: `python -m t5x.eval --gin_file=... --gin.X=...`."""

from t5x.runs import preflight

if __name__ == "__main__":
  preflight.before_imports("eval")  # Before slow imports.

from t5x import gin_utils
from t5x.metrics import MetricsByTask
from t5x.runs import command_line, records
from t5x.runs.evaluation import InferenceEvaluator, evaluate

# T5X also exports the evaluator from here.
__all__ = ["InferenceEvaluator", "evaluate", "show"]


def show(metrics: MetricsByTask) -> None:
  """Prints the metrics."""
  for task, values in metrics.items():
    print(records.format_metrics(task, values), flush=True)


if __name__ == "__main__":
  gin_utils.run_entry_point(
    evaluate, lambda bound: command_line.run(bound, "eval", "example", show)
  )
