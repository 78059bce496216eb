"""What prompt tuning does after an evaluation during training."""

from collections.abc import Mapping
import math
import os
from typing import Any

from absl import logging
from etils import epath
from flax import traverse_util
import jax
import numpy as np
import seqio

from prompt_tuning import prompt_files
from prompt_tuning.data import metrics as metrics_lib
from prompt_tuning.data import vocabulary as vocabulary_lib
from prompt_tuning.injections import Injections
from prompt_tuning.prompt_files import PARAMETER_PATH
from prompt_tuning.training import base_model, google_t5x
from t5x import trainer

MetricsByTask = Mapping[str, Mapping[str, float]]


class SaveBestPrompt(trainer.BaseAction):
  """Writes `prompt.safetensors` when the dev score is the best so far.

  The paper (section 3) reports the best checkpoint on the dev set.
  """

  def __init__(
    self,
    model_dir: str,
    task: str,
    metric: str,
    vocabulary: seqio.Vocabulary,
    injections: Injections | None = None,
    mode: str = "max",
  ):
    """Keeps its arguments.

    Args:
      model_dir: Where to write.
      task: Name of the task or mixture, for the file's header.
      metric: Regular expression for `task/metric`; see
        `prompt_tuning.data.metrics.score`.
      vocabulary: The model's.
      injections: The methods of the run; None is a prompt alone. Where another
        method or parameter trains beside it no file is written: such a prompt
        is not one of the base model.
      mode: "max" if more is better, or "min"; that of the checkpointer.
    """
    self._path = os.path.join(model_dir, "prompt.safetensors")
    self._task = task
    self._metric = metric
    self._vocabulary = vocabulary
    self._is_alone = injections is None or set(injections.used) == {"prompt"}
    self._mode = mode
    self._best: float | None = None

  def resume(self, history) -> None:
    for metrics_by_task in history:
      self._is_best(metrics_by_task)

  def run(self, train_state, metrics_by_task) -> bool:
    if not self._is_best(metrics_by_task) or not self._is_alone:
      return False
    if _is_prompt_alone(train_state):
      self.save(train_state)
    return False

  def save(self, train_state) -> None:
    """Writes the prompt of a state, as the best so far if one was evaluated."""
    # All processes take part in this, one writes.
    fingerprint = base_model.fingerprint(train_state)
    if jax.process_index() == 0:
      params = traverse_util.flatten_dict(train_state.params, sep="/")
      prompt_files.save_prompt(
        self._path,
        np.asarray(params[PARAMETER_PATH]),
        self._metadata(fingerprint, int(train_state.step)),
      )

  def _metadata(
    self, base_fingerprint: str, step: int
  ) -> prompt_files.PromptMetadata:
    """Returns the header for the best prompt so far."""
    return prompt_files.PromptMetadata(
      base_fingerprint=base_fingerprint,
      vocabulary_sha256=vocabulary_lib.sha256(self._vocabulary),
      task=self._task,
      step=step,
      metric=None if self._best is None else self._metric,
      score=self._best,
    )

  def check_files(self, evals, checkpointer) -> None:
    other = getattr(checkpointer, "metric_mode", self._mode)
    if other != self._mode:
      raise ValueError(
        f"The best checkpoint is that of metric_mode={other!r}, the best "
        f"prompt that of mode={self._mode!r}. Bind "
        f"actions.SaveBestPrompt.mode={other!r}."
      )
    if not self._is_alone or not evals:
      return
    # The first that has the best score, which `resume` found.
    step = next(
      e["step"]
      for e in evals
      if metrics_lib.score(e["metrics"], self._metric) == self._best
    )
    found = checkpointer.read_trained(step)
    some = found
    if found is None and (latest := checkpointer.latest_step()) is not None:
      some = checkpointer.read_trained(latest)
    if some is not None and set(some[0]) != {PARAMETER_PATH}:
      return  # None was written.
    if found is None:
      problem = self._problem(None, step)
      # Killed after a better evaluation that no checkpoint had yet, and that is
      # done again, a run left the prompt of that.
      if problem and not self._is_of_later(evals[-1]["step"]):
        raise ValueError(
          f"{self._path} {problem}, and checkpoint_{step}, which had its "
          "prompt, is not there or damaged. Restore one of the two from a "
          "backup, or begin anew in another MODEL_DIR."
        )
      return
    arrays, run_info = found
    metadata = self._metadata(
      run_info["base_fingerprint"] or prompt_files.UNKNOWN, step
    )
    expected = np.asarray(arrays[PARAMETER_PATH], np.float32), metadata
    problem = self._problem(expected, step)
    if problem and jax.process_index() == 0:
      logging.warning(
        "%s %s. It is written again from checkpoint_%d.",
        self._path,
        problem,
        step,
      )
      prompt_files.save_prompt(self._path, *expected)

  def _is_of_later(self, step: int) -> bool:
    """Whether the file is whole, and of a step after this one."""
    try:
      _, metadata = prompt_files.load_prompt(self._path)
    except (OSError, ValueError):
      return False
    written = metadata.step if metadata else None
    return written is not None and written > step

  def _problem(
    self,
    expected: tuple[np.ndarray, prompt_files.PromptMetadata] | None,
    step: int,
  ) -> str | None:
    """Says what is wrong with the file.

    Args:
      expected: The prompt and its header, if they are known.
      step: The step of the best evaluation.
    """
    if not epath.Path(self._path).exists():
      return "is missing"
    try:
      prompt, metadata = prompt_files.load_prompt(self._path)
    except ValueError as error:
      return f"cannot be used ({error})"
    if metadata is None or metadata.step != step:
      return f"is not the best prompt, that of step {step}"
    if expected is not None and (
      metadata != expected[1] or not np.array_equal(prompt, expected[0])
    ):
      return "is not what was trained"
    return None

  def _is_best(self, metrics_by_task: MetricsByTask) -> bool:
    """Whether it is better than all before, for which it then stands.

    Raises:
      ValueError: if no metric is meant, or the score is not finite: nothing
        would be better than NaN.
    """
    score = metrics_lib.score(metrics_by_task, self._metric)
    if score is None:
      raise ValueError(
        f"BEST_METRIC={self._metric!r} matches none of "
        f"{[f'{t}/{m}' for t, ms in metrics_by_task.items() for m in ms]}."
      )
    if not math.isfinite(score):
      raise ValueError(
        f"Expected finite metrics of BEST_METRIC={self._metric!r}, got "
        f"{_not_finite(metrics_by_task)}. Choose others, or find out why."
      )
    if self._best is not None and (
      score >= self._best if self._mode == "min" else score <= self._best
    ):
      return False
    self._best = score
    return True


def _not_finite(metrics_by_task: MetricsByTask) -> str:
  return ", ".join(
    f"{task}/{name} = {value}"
    for task, metrics in metrics_by_task.items()
    for name, value in metrics.items()
    if not math.isfinite(value)
  )


def _is_prompt_alone(train_state: Any) -> bool:
  """Returns whether nothing else trains, as far as that is known."""
  if (trainable := google_t5x.trainable(train_state)) is None:
    return True
  names = traverse_util.flatten_dict(trainable, sep="/")
  return set(names) == {PARAMETER_PATH}
