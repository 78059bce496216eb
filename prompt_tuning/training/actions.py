"""Actions after each evaluation during training."""

from collections.abc import Callable, Mapping
import dataclasses
import math
import os
from typing import Any, Literal

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
from prompt_tuning.methods import computed_prompts
from prompt_tuning.training import base_model
from t5x import trainer


@dataclasses.dataclass(eq=False)
class SaveBestPrompt(trainer.BaseAction):
  """Writes `prompt.safetensors` when the dev score is the best so far.

  The paper (section 3) reports the best checkpoint on the dev set. A prompt
  that is computed in the network is folded.

  Attributes:
    model_dir: The folder to write to.
    task: Name of the task or mixture, for the file's header.
    metric: Regular expression for `task/metric`, the same as the
      checkpointer's; see `prompt_tuning.data.metrics.score`.
    vocabulary: The model's vocabulary.
    injections: The methods of the run; None means a prompt alone. If another
      method or parameter trains too, no file is written, because such a prompt
      does not work with the base model alone.
    mode: "max" if more is better, or "min"; the same as the checkpointer's.
    base_model: The frozen model's path or name, for the file's header.
  """

  model_dir: str
  task: str
  metric: str
  vocabulary: seqio.Vocabulary
  injections: Injections | None = None
  mode: Literal["max", "min"] = "max"
  base_model: str | None = None

  def __post_init__(self):
    self._path = os.path.join(self.model_dir, "prompt.safetensors")
    injections, base = self.injections, self.base_model
    self._is_alone = injections is None or set(injections.used) == {"prompt"}
    # A file is used from other folders too.
    if base is not None and os.path.exists(base):
      self.base_model = os.path.abspath(base)
    self._evals: Any = []
    self._checkpointer: Any = None  # Google's T5X attaches none.

  def run(self, train_state, metrics_by_task) -> bool:
    if self._checkpointer is None:  # As `t5x.checkpoints` scores it.
      score = metrics_lib.score(metrics_by_task, self.metric)
      # Nothing would be better than NaN.
      if score is None or not math.isfinite(score):
        raise ValueError(
          f"The metrics that match BEST_METRIC={self.metric!r} make the score "
          f"{score}. The metrics are {dict(metrics_by_task)}."
        )
      self._evals.append({"step": int(train_state.step), "score": score})
    best = self._best()
    if (
      self._is_alone
      and best is not None
      and best["step"] == int(train_state.step)
    ):
      self.save(train_state)
    return False

  def save(self, train_state) -> None:
    """Writes the prompt of a state, with its score if one was evaluated."""
    # All processes take part in this, one writes.
    fingerprint = base_model.fingerprint(train_state, self.base_model)
    if jax.process_index() == 0:
      params = traverse_util.flatten_dict(train_state.params, sep="/")
      path, prompt = _folded(params)
      metadata = self._metadata(fingerprint, int(train_state.step), path)
      prompt_files.save_prompt(self._path, prompt, metadata)

  def _best(self) -> Mapping[str, Any] | None:
    """Returns the best evaluation so far: the checkpointer decides."""
    if self._checkpointer is not None:
      return self._checkpointer.best(self._evals)
    sign = -1 if self.mode == "min" else 1
    return max(self._evals, key=lambda e: sign * e["score"], default=None)

  def _metadata(
    self, base_fingerprint: str, step: int, path: str
  ) -> prompt_files.PromptMetadata:
    """Returns the header for the best prompt so far."""
    best = self._best()
    return prompt_files.PromptMetadata(
      base_fingerprint=base_fingerprint,
      vocabulary_sha256=vocabulary_lib.sha256(self.vocabulary),
      parameter_path=path,
      task=self.task,
      step=step,
      metric=self.metric if best else None,
      score=best["score"] if best else None,
      base_model=self.base_model,
    )

  def attach(self, evals, checkpointer) -> None:
    theirs = checkpointer.metric, checkpointer.metric_mode
    if theirs != (self.metric, self.mode):
      raise ValueError(
        "The best checkpoint is chosen by (metric, mode) = "
        f"{theirs}, the best prompt by {(self.metric, self.mode)}. Bind "
        "checkpoints.SaveBestCheckpointer and actions.SaveBestPrompt to the "
        "same metric and mode."
      )
    self._evals, self._checkpointer = evals, checkpointer
    found = computed_prompts.find(dict.fromkeys(checkpointer.trained))
    sizes = [len(parts) for parts in found.values()]
    self._is_alone &= sizes == [len(checkpointer.trained)]
    best = self._best()
    if not self._is_alone or best is None:
      return
    step = best["step"]
    found = checkpointer.read_trained(step)
    if found is None:
      # A run that was killed after a better evaluation, before its checkpoint,
      # left the prompt of that evaluation, which is done again.
      latest = evals[-1]["step"]
      problem = self._problem(
        step, lambda _, x: x.step == step or (x.step or 0) > latest
      )
      if problem:
        raise ValueError(
          f"{self._path} {problem}, and checkpoint_{step}, which had its "
          "prompt, is not there or damaged. Restore one of the two from a "
          "backup, or start over in another folder."
        )
      return
    arrays, run_info = found
    path, prompt = _folded(arrays)
    metadata = self._metadata(
      run_info["base_fingerprint"] or prompt_files.UNKNOWN, step, path
    )
    problem = self._problem(
      step,
      lambda array, x: (
        # The model may lie elsewhere by now.
        dataclasses.replace(x, base_model=self.base_model) == metadata
        and np.array_equal(array, prompt)
      ),
    )
    if problem and jax.process_index() == 0:
      logging.warning(
        "%s %s. It is written again from checkpoint_%d.",
        self._path,
        problem,
        step,
      )
      prompt_files.save_prompt(self._path, prompt, metadata)

  def _problem(
    self,
    step: int,
    is_best: Callable[[np.ndarray, prompt_files.PromptMetadata], bool],
  ) -> str | None:
    """Describes the problem with the file, if there is one.

    Args:
      step: The step of the best evaluation.
      is_best: Returns whether a prompt and its header may be in the file.
    """
    if not epath.Path(self._path).exists():
      return "is missing"
    try:
      prompt, metadata = prompt_files.load_prompt(self._path)
    except ValueError as error:
      return f"cannot be used ({error})"
    if metadata is None or not is_best(prompt, metadata):
      return f"is not the best prompt, that of step {step}"
    return None


def _folded(params: Mapping[str, Any]) -> tuple[str, np.ndarray]:
  """Returns the name and the values of the prompt among parameters."""
  ((path, parts),) = computed_prompts.find(params).items()
  return path, computed_prompts.fold(parts)
