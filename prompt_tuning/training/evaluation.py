"""The evaluator of seqio, with the average score that the paper plots."""

from concurrent import futures
from typing import Any

from etils import epath
import seqio

from prompt_tuning.data import metrics as metrics_lib

AVERAGE = "super_glue_average"


class Evaluator(seqio.Evaluator):
  """An evaluator that adds `super_glue_average` if all eight tasks are there.

  It is reported as a metric of the mixture, beside those of its tasks.
  """

  def __init__(
    self,
    mixture_or_task_name: str,
    *args: Any,
    log_dir: str | None = None,
    **kwargs: Any,
  ):
    """See `seqio.Evaluator`."""
    if log_dir:
      # seqio's JSONLogger expects the folder; TensorBoard's would make it.
      epath.Path(log_dir).mkdir(parents=True, exist_ok=True)
    super().__init__(mixture_or_task_name, *args, log_dir=log_dir, **kwargs)
    self._name = seqio.get_mixture_or_task(mixture_or_task_name).name

  def evaluate(
    self, *, compute_metrics: bool, step: int | None = None, **kwargs: Any
  ):
    """See `seqio.Evaluator.evaluate`."""
    computed, outputs = super().evaluate(
      compute_metrics=compute_metrics, step=step, **kwargs
    )
    # None where another process computes them.
    found: Any = computed.result() or {}
    if metrics_lib.is_super_glue(found):
      average = metrics_lib.super_glue_average(found)
      for logger in self.loggers:
        logger(
          task_name=self._name,
          step=step,
          metrics={AVERAGE: seqio.metrics.Scalar(average)},
          dataset=None,
          targets=None,
          inferences=None,
        )
      computed = futures.Future()
      computed.set_result({**found, self._name: {AVERAGE: average}})
    return computed, outputs
