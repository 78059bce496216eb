"""Metrics from sums over examples, and one score from several metrics."""

from collections.abc import Mapping
import re
import statistics

Metrics = Mapping[str, float]
MetricsByTask = Mapping[str, Metrics]


def summarize(sums: Mapping[str, float], steps: int) -> dict[str, float]:
  """Computes T5X's metrics from sums.

  Args:
    sums: From `EncoderDecoderModel.loss_fn`, added up over steps.
    steps: The number of steps.

  Returns:
    Losses in nats, accuracy of target tokens and other fractions in [0, 1].
  """
  tokens = max(sums["target_tokens"], 1.0)
  slots = sums["target_slots"] + sums["input_slots"]
  return {
    "accuracy": sums["correct_tokens"] / tokens,
    "loss": sums["loss"] / steps,
    "cross_ent_loss": (sums["loss"] - sums["z_loss"]) / steps,
    "z_loss": sums["z_loss"] / steps,
    "loss_per_nonpadding_target_token": sums["loss"] / tokens,
    "loss_per_all_target_tokens": sums["loss"] / sums["target_slots"],
    "nonpadding_fraction": (sums["target_tokens"] + sums["input_tokens"])
    / slots,
  }


def timing(
  sums: Mapping[str, float], steps: int, seconds: float, num_devices: int
) -> dict[str, float]:
  """Computes the speed of training that took `seconds`."""
  slots = sums["target_slots"] + sums["input_slots"]
  return {
    "timing/seconds": seconds,
    "timing/steps_per_second": steps / seconds,
    "timing/seqs_per_second": sums["examples"] / seconds,
    "timing/target_tokens_per_second": sums["target_tokens"] / seconds,
    "timing/tokens_per_second_per_core": slots / seconds / num_devices,
  }


def monitored(metrics_by_task: MetricsByTask, pattern: str) -> float | None:
  """Reduces metrics to the score by which checkpoints are compared.

  The paper (section 3) takes a task's metric, or the mean of its metrics if
  there are several. For a mixture, this is the mean over its tasks.

  Args:
    metrics_by_task: Metrics of each task.
    pattern: Regular expression that `task/metric` must match in full.

  Returns:
    The mean over tasks of the mean over matching metrics, or None if nothing
    matches.
  """
  scores = []
  for task, metrics in metrics_by_task.items():
    values = [
      value
      for name, value in metrics.items()
      if re.fullmatch(pattern, f"{task}/{name}")
    ]
    if values:
      scores.append(statistics.fmean(values))
  return statistics.fmean(scores) if scores else None


def names(metrics_by_task: MetricsByTask) -> str:
  """Lists metrics as `task/metric`, for messages."""
  return ", ".join(
    f"{task}/{name}"
    for task, metrics in metrics_by_task.items()
    for name in metrics
  )
