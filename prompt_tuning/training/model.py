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
import dataclasses
import os
import sys
import tempfile
from typing import Any

import jax
import numpy as np
from pydantic import PositiveInt
import seqio

from prompt_tuning import (
  prompts,
  tasks,  # noqa: F401  # Registers them.
)
from prompt_tuning.data import (
  files,
  task_facts,
  task_lookup,
  text_pairs,
)
from prompt_tuning.inference.frozen_model import AnyPrompt, FrozenModel
from prompt_tuning.inference.requests import TunedPrompt
from prompt_tuning.injections import Injections
from prompt_tuning.interop import hub
from prompt_tuning.training import defaults, evaluation, tuning
from t5x.configuration import arguments
from t5x.runs import command_line, events
from t5x.runs import evaluation as evaluation_runs

# Pairs, a file, a table, or the name of a task.
Data = text_pairs.Pairs | str | os.PathLike[str]
# gin's name of a default -> that of an argument of `Model.tune`.
_ARGUMENTS = {
  "PROMPT_LENGTH": "length",
  "LEARNING_RATE": "learning_rate",
  "BATCH_SIZE": "batch_size",
  "TRAIN_STEPS_RELATIVE": "steps",
}


class Model(FrozenModel):
  """A frozen T5 to tune prompts for."""

  @arguments.checked
  def tune(
    self,
    train: Data,
    validation: Data | None = None,
    *,
    length: PositiveInt | None = None,
    init: str | os.PathLike[str] | TunedPrompt | np.ndarray | None = None,
    labels: Sequence[str] | None = None,
    folder: str | os.PathLike[str] | None = None,
    on_event: events.OnEvent | None = None,
    should_stop: events.ShouldStop = events.never,
    **settings: Any,
  ) -> TunedPrompt:
    """Trains a prompt; the model does not change.

    Args:
      train: Pairs (input, target) of texts; a CSV, TSV, JSON or Parquet file,
        a pandas.DataFrame or a datasets.Dataset, whose columns are guessed and
        printed; or the name of a seqio task with its own validation split, such
        as "super_glue_cb".
      validation: More examples of the same kind, to select the best prompt.
        Without them, a tenth of a file or a table is held out.
      length: Positions of the prompt; by default those of `init`. Otherwise
        `defaults.choose` decides, as for `steps`, `learning_rate` and
        `batch_size`.
      init: "class_labels", "sampled_vocab", "random_uniform", or a prompt to
        start from, its file, or its name on the hub. The default is
        "class_labels" if there are labels.
      labels: The legal targets of pairs; an empty list means free text. By
        default, the targets that occur, unless there are more than fifty or
        fewer than four pairs for each.
      folder: Receives checkpoints, a record and the prompt; an interrupted run
        in it is resumed. By default nothing is kept.
      on_event: Called with every event, in this thread; see `t5x.runs.events`.
        By default, progress bars and the chosen settings go to stderr.
      should_stop: Called after every training step and evaluation batch; True
        ends the run with the best prompt so far. An example is
        `threading.Event().is_set`.
      **settings: Fields of `tuning.Settings`, such as `steps`, `batch_size`,
        `learning_rate` and `seed`.

    Returns:
      The prompt with the best validation score, or the last prompt if there is
      no validation.

    Raises:
      ValueError: for wrong examples or settings.
      FloatingPointError: if the loss is not a number.
    """
    start = self._start(init)
    if length is None and isinstance(start, np.ndarray):
      length = len(start)
    known = [x.name for x in dataclasses.fields(tuning.Settings)]
    if unknown := sorted(set(settings) - set(known)):
      raise ValueError(
        f"There is no setting {', '.join(unknown)}; expected "
        f"{', '.join(known)}."
      )
    given = {"length": length, **settings}
    given = {name: x for name, x in given.items() if x is not None}
    # Refuses wrong settings before the data are read.
    tuning.Settings(**{"length": 1, **given, "init": start})
    is_ranked = bool(settings.get("rank"))
    found = _find(train, validation, self.vocabulary, labels, is_ranked)
    own = self._defaults(found, given)
    chosen = {_ARGUMENTS[x.name]: x.value for x in own}
    with contextlib.ExitStack() as stack:
      model_dir = stack.enter_context(_folder(folder))
      if on_event is None:
        print(*own, sep="\n", file=sys.stderr)
        bar = command_line.ProgressBar("tune", "step")
        on_event = stack.enter_context(contextlib.closing(bar))
      return tuning.tune(
        self,
        found,
        tuning.Settings(init=start, **chosen | given),
        model_dir,
        on_event,
        should_stop,
      )

  def _start(
    self, init: str | os.PathLike[str] | TunedPrompt | np.ndarray | None
  ) -> str | np.ndarray | None:
    """Returns the name of an initialiser, or the array of a prompt."""
    if isinstance(init, str) and (
      init in tuning.INITS or not (os.path.exists(init) or hub.is_name(init))
    ):
      return init  # `tuning.initializer` refuses an unknown one.
    return self.prompt_array(init)

  def _defaults(
    self, examples: text_pairs.PairTask, given: Mapping[str, Any]
  ) -> list[defaults.Setting]:
    """Returns the default settings of `tune` for the given ones."""
    own = {k: given[x] for k, x in _ARGUMENTS.items() if x in given}
    facts = defaults.Facts(
      self.config,
      sum(x.size for x in self._base.arrays.values()),
      examples.task.num_input_examples("train") or 1,
      min(examples.lengths["train"]["inputs"], tuning.LONGEST),
      len(examples.labels),
      *(*defaults.devices(), defaults.prompt_rate(self), own),
    )
    names = _ARGUMENTS.keys() - own
    return [x for x in defaults.choose(facts) if x.name in names]

  @arguments.checked
  def evaluate(
    self,
    examples: Data,
    prompt: AnyPrompt | None = None,
    *,
    labels: Sequence[str] | None = None,
    rank: bool = False,
    batch_size: PositiveInt = 32,
    folder: str | os.PathLike[str] | None = None,
    on_event: events.OnEvent = events.ignore,
  ) -> Mapping[str, float]:
    """Evaluates answers.

    Args:
      examples: Pairs (input, target), a file or a table as for `tune`, or the
        name of a seqio task with a "validation" split.
      prompt: As for `generate`.
      labels: As for `tune`.
      rank: Whether to rank labels instead of generating text.
      batch_size: Examples in a batch; more if several devices divide it.
      folder: Receives a record and the predictions; by default nothing is kept.
      on_event: Called after every batch.

    Returns:
      Metric -> value in percent; for the tasks of a mixture, "task/metric" ->
      value. For labels: accuracy, macro F1 and the share of answers that are
      not labels; for free text: exact match and F1 of words.

    Raises:
      ValueError: for wrong examples, or a prompt of another model.
    """
    found = _find(None, examples, self.vocabulary, labels, rank)
    method = Injections()
    if (array := self.prompt_array(prompt)) is not None:
      method = Injections(
        prompt=prompts.prompt_factory(len(array), prompts.from_array(array))
      )
    ranked = found.labels if rank else None
    with _folder(folder) as output_dir:
      metrics = evaluation_runs.evaluate(
        model=tuning.make_model(
          self.config, self.vocabulary, method, ranked=ranked
        ),
        dataset_cfg=tuning.validation_cfg(
          found, defaults.divisible(batch_size, jax.device_count())
        ),
        restore_checkpoint_cfg=tuning.restore_cfg(self, method),
        partitioner=tuning.make_partitioner(method),
        output_dir=output_dir,
        inference_evaluator_cls=evaluation.Evaluator,
        summarize_config_fn=None,
        fallback_init_rng=0,
        on_event=on_event,
      )
    if len(metrics) == 1:
      return next(iter(metrics.values()))
    return {
      f"{task}/{name}": value
      for task, values in metrics.items()
      for name, value in values.items()
    }


def _folder(
  given: str | os.PathLike[str] | None,
) -> contextlib.AbstractContextManager[str]:
  """Returns a context with the given folder, or with a temporary one."""
  if given is not None:
    return contextlib.nullcontext(os.fspath(given))
  return tempfile.TemporaryDirectory(prefix="prompt_tuning_")


def _find(
  train: Data | None,
  validation: Data | None,
  vocabulary: seqio.Vocabulary,
  labels: Sequence[str] | None,
  rank: bool,
) -> text_pairs.PairTask:
  """Makes a task of pairs, or finds a registered task or mixture.

  Args:
    train: As for `Model.tune`; None if nothing is trained.
    validation: The same; without `train`, it may be a task with that split.
    vocabulary: The model's vocabulary.
    labels: The legal targets of pairs; see `text_pairs.make`.
    rank: Whether the labels are ranked, and so must be known.

  Returns:
    The task. If a registered task is not ranked, its labels are words that a
    prompt can start from, which need not be targets. Examples of a split
    without lengths are not cut.

  Raises:
    ValueError: if the arguments do not fit together, there is no such task, or
      there are fewer than two labels to rank.
  """
  if files.is_data(train) and (validation is None or files.is_data(validation)):
    data = files.read(train, validation, labels=labels, vocabulary=vocabulary)
    print(data, file=sys.stderr)
    labels = data.targets.labels
    train, validation = map(data.pairs, ("train", "validation"))
  train, validation = (
    files.pairs(x) if files.is_data(x) else x for x in (train, validation)
  )
  name = validation if train is None else train
  if isinstance(name, os.PathLike):
    name = os.fspath(name)
  if train is not None and isinstance(validation, str | os.PathLike):
    raise ValueError(
      f"Expected validation to be pairs, a file or a table, got {validation!r}."
    )
  if not isinstance(name, str):
    splits = {"train": train, "validation": validation}
    found = text_pairs.make(
      {x: pairs for x, pairs in splits.items() if pairs is not None},  # pyright: ignore[reportArgumentType]
      vocabulary,
      labels,
    )
  elif labels is not None or None not in (train, validation):
    raise ValueError(
      f"The task {name} brings its own validation split and labels: pass "
      "neither, or pass pairs."
    )
  else:
    task, lengths, words = task_lookup.find(name), {}, ()
    if train is not None:
      lengths["train"] = task_facts.lengths(
        name, vocabulary, longest=tuning.LONGEST
      )
    if rank:  # The longest label may be longer than the targets of the split.
      lengths["validation"] = task_facts.lengths(
        name, vocabulary, splits=("validation",), longest=None
      )
      words = task_facts.labels(name)
    else:
      with contextlib.suppress(ValueError):  # A user's own task has none.
        words = task_facts.class_words(name)
    found = text_pairs.PairTask(task, tuple(words), lengths)
  if rank:
    text_pairs.check_ranked(found.labels)
  return found


def load_for(
  path: str, checkpoint: str | None = None
) -> tuple[Model, TunedPrompt]:
  """Reads a prompt, and loads the model that it was trained on.

  Args:
    path: As for `TunedPrompt.load`, such as a run's folder.
    checkpoint: The model; by default the one that the file names.

  Raises:
    ValueError: if the prompt is missing or names no model, or the model has
      moved.
  """
  prompt = TunedPrompt.load(path)
  base = checkpoint or (prompt.metadata and prompt.metadata.base_model)
  if not base:
    raise ValueError(f"{path} does not name its model. Give --model=MODEL.")
  try:
    return Model.load(base), prompt
  except ValueError as error:
    if checkpoint:
      raise
    raise ValueError(
      f"{path} was trained on {base}. {error} If the model has moved, give "
      "--model=MODEL."
    ) from error


load = Model.load
