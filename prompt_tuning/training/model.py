"""A frozen T5 in Python: tunes prompts, and answers with them.

  import prompt_tuning as pt

  model = pt.load("checkpoints/t5_small")
  prompt = model.tune([("a fine film", "good"), ("a dull film", "bad"), ...])
  model.generate(["a dull film"], prompt=prompt)

Tuning and evaluation work like `python -m t5x.train` and `t5x.eval`, without
gin.
"""

from collections.abc import Mapping, Sequence
import contextlib
import os
import tempfile

import numpy as np

from prompt_tuning.data import text_pairs
from prompt_tuning.inference.frozen_model import FrozenModel, Prompt
from prompt_tuning.inference.tuned_prompt import TunedPrompt
from prompt_tuning.training import examples as examples_lib
from prompt_tuning.training import tuning
from t5x.runs import events


class Model(FrozenModel):
  """A frozen T5 to tune prompts for."""

  def tune(
    self,
    train: text_pairs.Pairs | str,
    validation: text_pairs.Pairs | None = None,
    *,
    length: int | None = None,
    steps: int = 300,
    labels: Sequence[str] | None = None,
    init: str | TunedPrompt | np.ndarray | None = None,
    learning_rate: float = 0.3,
    batch_size: int = 32,
    seed: int = 0,
    eval_period: int | None = None,
    stats_period: int | None = None,
    rank: bool = False,
    folder: str | os.PathLike[str] | None = None,
    on_event: events.OnEvent = events.ignore,
    should_stop: events.ShouldStop = events.never,
  ) -> TunedPrompt:
    """Trains a prompt; the model does not change.

    Args:
      train: Pairs (input, target) of texts, or the name of a seqio task, such
        as "super_glue_cb", with its own validation split.
      validation: More pairs, to choose the best prompt by.
      length: Positions of the prompt; by default 100, or those of `init`.
      steps: Training steps.
      labels: The legal targets of pairs; an empty list means free text. By
        default, the targets that occur, unless there are more than fifty or
        fewer than four pairs for each.
      init: "class_labels", "sampled_vocab", "random_uniform", or a prompt to
        start from. By default the labels, if there are any.
      learning_rate: Constant.
      batch_size: Examples in a step.
      seed: Determines the initial prompt, dropout and the order of examples.
      eval_period: Steps between evaluations; by default there are ten.
      stats_period: Steps between reports of the training loss to `on_event`; by
        default those between evaluations.
      rank: Whether validation ranks the labels instead of generating text.
      folder: Receives checkpoints, record and prompt; an interrupted run there
        is resumed. By default nothing is kept.
      on_event: Called with every event, in this thread; see `t5x.runs.events`.
      should_stop: Called after every step and batch of evaluation, such as
        `threading.Event().is_set`; True ends the run, with the best prompt so
        far.

    Returns:
      The prompt with the best validation score; without validation, the last.

    Raises:
      ValueError: for wrong examples or settings.
      FloatingPointError: if the loss is not a number.
    """
    if not isinstance(init, str):
      init = self.prompt_array(init)
    if length is None:
      length = len(init) if isinstance(init, np.ndarray) else 100
    with _folder(folder) as model_dir:
      settings = tuning.Settings(
        length=length,
        steps=steps,
        init=init,
        learning_rate=learning_rate,
        batch_size=batch_size,
        seed=seed,
        eval_period=eval_period,
        stats_period=stats_period,
        rank=rank,
        folder=model_dir,
      )
      found = examples_lib.find(
        train, validation, self.vocabulary, labels, rank
      )
      return tuning.tune(self, found, settings, on_event, should_stop)

  def evaluate(
    self,
    examples: text_pairs.Pairs | str,
    prompt: Prompt | None = None,
    *,
    labels: Sequence[str] | None = None,
    rank: bool = False,
    batch_size: int = 32,
    folder: str | os.PathLike[str] | None = None,
    on_event: events.OnEvent = events.ignore,
  ) -> Mapping[str, float]:
    """Evaluates answers.

    Args:
      examples: Pairs (input, target), or the name of a seqio task with a split
        "validation".
      prompt: As for `generate`.
      labels: As for `tune`.
      rank: Whether to rank labels instead of generating text.
      batch_size: Examples in a batch.
      folder: Receives a record and the predictions; by default nothing is kept.
      on_event: Called after every batch.

    Returns:
      Metric -> value in percent. For labels: accuracy, macro F1 and the share
      of answers that are not labels; for free text: exact match and F1 of
      words.

    Raises:
      ValueError: for wrong examples, or a prompt of another model.
    """
    found = examples_lib.find(None, examples, self.vocabulary, labels, rank)
    array = self.prompt_array(prompt)
    with _folder(folder) as output_dir:
      return tuning.evaluate(
        self, found, array, output_dir, batch_size, rank, on_event
      )


def _folder(
  given: str | os.PathLike[str] | None,
) -> contextlib.AbstractContextManager[str]:
  """Returns a context with the given folder, or with a temporary one."""
  if given is not None:
    return contextlib.nullcontext(os.fspath(given))
  return tempfile.TemporaryDirectory(prefix="prompt_tuning_")


load = Model.load
