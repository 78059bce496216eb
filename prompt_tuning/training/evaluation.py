"""seqio's evaluator, with the score that the paper plots."""

from concurrent import futures
from typing import Any

from etils import epath
import seqio

from prompt_tuning.data import metrics as metrics_lib

AVERAGE = "super_glue_average"


class Evaluator(seqio.Evaluator):
  """Adds `super_glue_average` where all eight tasks are evaluated.

  It is reported as the metric of the mixture, beside those of its tasks.
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
      # seqio's JSONLogger expects it, TensorBoard's would have made it.
      epath.Path(log_dir).mkdir(parents=True, exist_ok=True)
    super().__init__(mixture_or_task_name, *args, log_dir=log_dir, **kwargs)
    self._name = seqio.get_mixture_or_task(mixture_or_task_name).name

  def evaluate(self, *, step: int | None = None, **kwargs: Any):
    """See `seqio.Evaluator.evaluate`."""
    computed, outputs = super().evaluate(step=step, **kwargs)
    if not metrics_lib.is_super_glue(task.name for task in self.eval_tasks):
      return computed, outputs
    averaged = futures.Future()

    def average(computed: futures.Future) -> None:
      try:
        averaged.set_result(self._with_average(computed.result(), step))
      except Exception as e:  # For whoever waits for the result.
        averaged.set_exception(e)

    computed.add_done_callback(average)
    return averaged, outputs

  def _with_average(self, metrics_by_task: Any, step: int | None) -> Any:
    if metrics_by_task is None:  # Another process computes the metrics.
      return None
    average = metrics_lib.super_glue_average(metrics_by_task)
    for logger in self.loggers:
      logger(
        task_name=self._name,
        step=step,
        metrics={AVERAGE: seqio.metrics.Scalar(average)},
        dataset=None,
        targets=None,
        inferences=None,
      )
    return {**metrics_by_task, self._name: {AVERAGE: average}}
