"""Tuning and evaluation of prompts by the trainer, without gin.

The settings equal those of `gin/recipes/prompt_tuning.gin`, and so do the
results.
"""

from collections.abc import Mapping, Sequence
import dataclasses
import functools
import hashlib
import math
import os
from typing import Any

from flax import traverse_util
import numpy as np
import seqio

from prompt_tuning import injections as injections_lib
from prompt_tuning import prompts
from prompt_tuning.data.text_pairs import PairTask
from prompt_tuning.inference import ranking
from prompt_tuning.inference.frozen_model import FrozenModel
from prompt_tuning.inference.tuned_prompt import TunedPrompt
from prompt_tuning.injections import Injections
from prompt_tuning.methods import trainable
from prompt_tuning.models.t5.config import T5Config
from prompt_tuning.models.t5.network import Transformer
from prompt_tuning.training import actions, initializers
from prompt_tuning.training import evaluation as evaluation_lib
from prompt_tuning.training import examples as examples_lib
from prompt_tuning.types import Initializer
from t5x import (
  adafactor,
  checkpoints,
  models,
  optimizers,
  partitioning,
  trainer,
  utils,
)
from t5x.configuration import identity
from t5x.runs import evaluation, events, training

_BEST_METRIC = ".*/(?!invalid).*"


@dataclasses.dataclass(frozen=True)
class Settings:
  """Settings of a run; `Model.tune` describes them.

  Raises:
    ValueError: if a number is too small, or `length` is not that of `init`.
  """

  length: int
  steps: int
  init: Any
  learning_rate: float
  batch_size: int
  seed: int
  eval_period: int | None
  stats_period: int | None
  rank: bool
  folder: str

  def __post_init__(self):
    numbers = ("length", "steps", "batch_size", "eval_period", "stats_period")
    for name in numbers:
      value = getattr(self, name)
      if value is not None and value <= 0:
        raise ValueError(f"Expected {name} to be positive, got {value}.")
    if isinstance(self.init, np.ndarray) and len(self.init) != self.length:
      n, length = len(self.init), self.length
      raise ValueError(f"Expected the length of init, {n}, got {length=}.")
    if not 0 <= self.learning_rate < math.inf:
      raise ValueError(
        f"Expected a finite learning_rate, 0 or more, got {self.learning_rate}."
      )

  @property
  def period(self) -> int:
    """Steps between evaluations, and between checkpoints; by default, ten."""
    return self.eval_period or max(1, self.steps // 10)

  def configuration(
    self, model: FrozenModel, examples: PairTask
  ) -> identity.RunConfiguration:
    """Returns the identity of the run, which alone may resume in its folder."""
    init = self.init
    if init is not None and not isinstance(init, str):
      init = hashlib.sha256(np.asarray(init, np.float32).tobytes()).hexdigest()
    return identity.RunConfiguration.from_settings(
      "train",
      {
        "train.relative_steps": self.steps,
        "train.eval_period": self.period,
        "train.random_seed": self.seed,
        "train.batch_size": self.batch_size,
        "train.learning_rate": self.learning_rate,
        "train.rank": self.rank,
        "task.name": examples.task.name,
        "task.lengths": examples_lib.train_lengths(examples),
        "prompt.length": self.length,
        "prompt.init": init,
        "model.config": model.config,
      },
    )


def make_model(
  config: T5Config,
  vocabulary: seqio.Vocabulary,
  method: Injections,
  optimizer_def: optimizers.OptimizerDef | None = None,
  ranked: Sequence[str] | None = None,
) -> models.EncoderDecoderModel:
  """Makes the model of `gin/models/t5_1_1.gin`: a network and its loss.

  Args:
    config: Sizes of the network.
    vocabulary: Of inputs and targets.
    method: The prompt's place in the network.
    optimizer_def: Selects the parameters that train, if any do.
    ranked: Labels, of which it answers with the likeliest; None: it generates
      text, by beam search with one beam.
  """
  make = models.EncoderDecoderModel
  if ranked is not None:
    make = functools.partial(ranking.make_ranking_model, tuple(ranked))
  return make(
    module=Transformer(config, method),
    input_vocabulary=vocabulary,
    output_vocabulary=vocabulary,
    optimizer_def=optimizer_def,
    z_loss=1e-4,
  )


def tune(
  model: FrozenModel,
  examples: PairTask,
  settings: Settings,
  on_event: events.OnEvent,
  should_stop: events.ShouldStop,
) -> TunedPrompt:
  """Trains a prompt, as `python -m t5x.train` does.

  Returns:
    The prompt with the best validation score; without validation, the last.

  Raises:
    ValueError: for wrong settings or examples.
    FloatingPointError: if the loss is not a number.
  """
  init = initializers.initializer(
    settings.init,
    settings.length,
    examples.labels,
    model.in_memory,
    model.vocabulary,
  )
  method = _prompt_method(settings.length, init)
  prompt_file = os.path.join(settings.folder, "prompt.safetensors")
  train_cfg = utils.DatasetConfig(
    mixture_or_task_name=examples.task,
    task_feature_lengths=examples_lib.train_lengths(examples),
    split="train",
    batch_size=settings.batch_size,
    shuffle=True,
    seed=settings.seed,
  )
  save_best = actions.SaveBestPrompt(
    settings.folder, train_cfg.name, _BEST_METRIC, model.vocabulary, method
  )
  outcome = training.train(
    model=make_model(
      model.config,
      model.vocabulary,
      method,
      optimizer_def=_optimizer(method),
      ranked=examples.labels if settings.rank else None,
    ),
    train_dataset_cfg=train_cfg,
    train_eval_dataset_cfg=None,
    infer_eval_dataset_cfg=_validation(examples, settings.batch_size)
    if _has_validation(examples.task)
    else None,
    checkpoint_cfg=_checkpoint_cfg(model, method, settings.period),
    partitioner=_partitioner(method),
    trainer_cls=functools.partial(
      trainer.Trainer,
      learning_rate_fn=optimizers.create_learning_rate_scheduler(
        factors="constant", base_learning_rate=settings.learning_rate
      ),
    ),
    model_dir=settings.folder,
    total_steps=None,
    relative_steps=settings.steps,
    eval_steps=1,
    eval_period=settings.period,
    stats_period=settings.stats_period,
    random_seed=settings.seed,
    inference_evaluator_cls=evaluation_lib.Evaluator,
    actions={"INFER_EVAL": [save_best]},
    concurrent_metrics=False,
    configuration=settings.configuration(model, examples),
    on_event=on_event,
    should_stop=should_stop,
  )
  if outcome.best is None:  # Without evaluations, the last prompt counts.
    save_best.save(outcome.train_state)
  return dataclasses.replace(
    TunedPrompt.load(prompt_file), status=outcome.status, evals=outcome.evals
  )


def _prompt_method(length: int, init: Initializer) -> Injections:
  return Injections(
    prompt=functools.partial(prompts.Prompt, length=length, prompt_init=init)
  )


def _partitioner(method: Injections) -> partitioning.PjitPartitioner:
  """Makes a partitioner that copies the model to every device."""
  return partitioning.PjitPartitioner(
    num_partitions=1,
    logical_axis_rules=partitioning.standard_logical_axis_rules(
      additional_rules=injections_lib.axis_rules(method)
    ),
  )


def _restore_cfg(
  model: FrozenModel, method: Injections
) -> utils.RestoreCheckpointConfig:
  """Takes all parameters but the prompt from the model in memory."""
  return utils.RestoreCheckpointConfig(
    path=model.checkpoint,
    checkpoint=model.in_memory,
    mode="specific",
    assignment_map=injections_lib.assignment_map(method),
    fallback_to_scratch=True,
    dtype="float32",
  )


def _optimizer(method: Injections) -> optimizers.MultiOptimizer:
  """Makes the recipe's optimizer: Adafactor, for the prompt alone."""
  matches = trainable.matches_any(injections_lib.parameter_patterns(method))
  adafactor_def = adafactor.Adafactor(
    decay_rate=0.8,
    step_offset=0,
    multiply_by_parameter_scale=False,
    weight_decay_rate=1e-5,
  )
  return optimizers.MultiOptimizer(
    ((traverse_util.ModelParamTraversal(matches), adafactor_def),)
  )


def _checkpoint_cfg(
  model: FrozenModel, method: Injections, period: int
) -> utils.CheckpointConfig:
  return utils.CheckpointConfig(
    save=utils.SaveCheckpointConfig(
      period=period,
      keep=1,
      checkpointer_cls=functools.partial(
        checkpoints.SaveBestCheckpointer,
        metric_name_to_monitor=_BEST_METRIC,
        metric_mode="max",
      ),
    ),
    restore=_restore_cfg(model, method),
  )


def _has_validation(task: seqio.Task | seqio.Mixture) -> bool:
  return any("validation" in x.splits for x in seqio.get_subtasks(task))


def _validation(examples: PairTask, batch_size: int) -> utils.DatasetConfig:
  return utils.DatasetConfig(
    mixture_or_task_name=examples.task,
    task_feature_lengths=examples.lengths.get("validation"),
    split="validation",
    batch_size=batch_size,
    shuffle=False,
    seed=42,
  )


def evaluate(
  model: FrozenModel,
  examples: PairTask,
  prompt: np.ndarray | None,
  folder: str,
  batch_size: int,
  rank: bool,
  on_event: events.OnEvent,
) -> Mapping[str, float]:
  """Evaluates the split "validation", as `python -m t5x.eval` does.

  Args:
    model: The frozen model.
    examples: Examples with that split.
    prompt: [P, H], or None for the model alone.
    folder: Receives the record and the predictions.
    batch_size: Examples in a batch.
    rank: Whether to rank the labels instead of generating text.
    on_event: Called after every batch.

  Returns:
    Metric -> value; for the tasks of a mixture, "task/metric" -> value.
  """
  method = Injections()
  if prompt is not None:
    method = _prompt_method(len(prompt), prompts.from_array(prompt))
  metrics = evaluation.evaluate(
    model=make_model(
      model.config,
      model.vocabulary,
      method,
      ranked=examples.labels if rank else None,
    ),
    dataset_cfg=_validation(examples, batch_size),
    restore_checkpoint_cfg=_restore_cfg(model, method),
    partitioner=_partitioner(method),
    output_dir=folder,
    inference_evaluator_cls=evaluation_lib.Evaluator,
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
