"""The evaluator of seqio, with the average scores of whole benchmarks."""

from concurrent import futures
import logging as python_logging
from typing import Any

from absl import logging
from etils import epath
import seqio

from prompt_tuning.data import metrics as metrics_lib

# seqio warns of lengths that just fit, of a decoder's, which are a token more,
# and of missing loggers. A run says itself how many examples it cuts.
_FALSE_ALARMS = ("Given sequence lengths ", "'logger_cls' is empty")


def _is_no_false_alarm(record: python_logging.LogRecord) -> bool:
  return not str(record.msg).startswith(_FALSE_ALARMS)


class Evaluator(seqio.Evaluator):
  """An evaluator that adds `metrics.averages` of SuperGLUE and GLUE.

  They are metrics of the mixture, beside those of its tasks.
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
    logger = logging.get_absl_logger()
    logger.addFilter(_is_no_false_alarm)
    try:
      super().__init__(mixture_or_task_name, *args, log_dir=log_dir, **kwargs)
    finally:
      logger.removeFilter(_is_no_false_alarm)
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
    if averages := metrics_lib.averages(found):
      for logger in self.loggers:
        logger(
          task_name=self._name,
          step=step,
          metrics={k: seqio.metrics.Scalar(x) for k, x in averages.items()},
          dataset=None,
          targets=None,
          inferences=None,
        )
      computed = futures.Future()
      computed.set_result({**found, self._name: averages})
    return computed, outputs
