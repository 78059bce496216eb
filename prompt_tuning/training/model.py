"""A frozen T5 for programs: tune prompts of it, and answer with them.

  import prompt_tuning as pt

  model = pt.load("checkpoints/t5_small")
  prompt = model.tune([("a fine film", "good"), ("a dull film", "bad"), ...])
  model.generate(["a dull film"], prompt=prompt)

Tuning and evaluation are those of `python -m t5x.train` and `t5x.eval`, without
gin.
"""

from collections.abc import Iterator, Mapping, Sequence
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
  """A frozen T5 that prompts are tuned for."""

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
    """Trains a prompt; the model stays as it is.

    Args:
      train: Pairs (input, target) of texts, or the name of a seqio task, such
        as "super_glue_cb", with its own validation split.
      validation: More pairs, to choose the best prompt by.
      length: Positions of the prompt; by default 100, or those of `init`.
      steps: Of training.
      labels: The legal targets of pairs; an empty list for free text. By
        default those that occur, unless they are many: more than fifty, or
        fewer than four pairs each.
      init: "class_labels", "sampled_vocab", "random_uniform", or a prompt to
        begin with. By default the labels, where there are some.
      learning_rate: Constant.
      batch_size: Examples of a step.
      seed: The same seed gives the same prompt.
      eval_period: Steps between evaluations; by default there are ten.
      stats_period: Steps between losses that `on_event` is told of; by default
        those between evaluations.
      rank: Whether validation ranks the labels instead of generating text.
      folder: For checkpoints, record and prompt; a run that was interrupted
        there goes on. By default nothing is kept.
      on_event: Called with all that happens, in this thread; see
        `t5x.runs.events`.
      should_stop: Asked after every step and batch of evaluation, such as
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
      found = self._to_train_on(train, validation, labels, rank)
      _check_ranked(found, rank)
      return tuning.tune(
        self._tuning_base, found, settings, on_event, should_stop
      )

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
    """Measures how good answers are.

    Args:
      examples: Pairs (input, target), or the name of a seqio task, whose split
        "validation" is taken.
      prompt: As for `generate`.
      labels: As for `tune`.
      rank: Whether labels are ranked instead of generating text.
      batch_size: Examples of a batch.
      folder: For a record and the predictions; by default nothing is kept.
      on_event: Called after every batch.

    Returns:
      Metric -> value: of labels, accuracy, macro F1 and the share of answers
      that are none; of free text, exact match and F1 of words; in percent.

    Raises:
      ValueError: for wrong examples, or a prompt of another model.
    """
    if not isinstance(examples, str):
      found = examples_lib.of_pairs(None, examples, self.vocabulary, labels)
    elif labels is not None:
      raise ValueError(
        f"The task {examples} has labels of its own: give none, or give pairs."
      )
    else:
      found = examples_lib.of_task(
        examples, self.vocabulary, rank, trains=False
      )
    _check_ranked(found, rank)
    with _folder(folder) as output_dir:
      return tuning.evaluate(
        self._tuning_base,
        found,
        self.prompt_array(prompt),
        output_dir,
        batch_size,
        rank,
        on_event,
      )

  @property
  def _tuning_base(self) -> tuning.Base:
    return tuning.Base(self.in_memory, self.config, self.vocabulary)

  def _to_train_on(
    self,
    train: text_pairs.Pairs | str,
    validation: text_pairs.Pairs | None,
    labels: Sequence[str] | None,
    rank: bool,
  ) -> examples_lib.Examples:
    if not isinstance(train, str):
      return examples_lib.of_pairs(train, validation, self.vocabulary, labels)
    if validation is not None or labels is not None:
      raise ValueError(
        f"The task {train} has a validation split and labels of its own: give "
        "neither, or give pairs."
      )
    return examples_lib.of_task(train, self.vocabulary, rank, trains=True)


def _check_ranked(examples: examples_lib.Examples, rank: bool) -> None:
  if rank and not examples.labels:
    raise ValueError("Ranking needs labels, and the targets are free text.")


@contextlib.contextmanager
def _folder(given: str | os.PathLike[str] | None) -> Iterator[str]:
  """Yields a folder: that which is given, or a temporary one."""
  if given is not None:
    yield os.fspath(given)
    return
  with tempfile.TemporaryDirectory(prefix="prompt_tuning_") as folder:
    yield folder


load = Model.load
