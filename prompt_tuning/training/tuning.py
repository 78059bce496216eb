"""Tuning and evaluation of prompts by the trainer, without gin.

The settings are those of `gin/recipes/prompt_tuning.gin`: the same numbers come
out.
"""

from collections.abc import Mapping
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
from prompt_tuning import (
  prompts,
  tasks,  # noqa: F401  # Registers them.
)
from prompt_tuning.inference import prediction
from prompt_tuning.inference.tuned_prompt import TunedPrompt
from prompt_tuning.injections import Injections
from prompt_tuning.methods import trainable
from prompt_tuning.models.t5.config import T5Config
from prompt_tuning.training import actions, initializers
from prompt_tuning.training import evaluation as evaluation_lib
from prompt_tuning.training.examples import Examples
from prompt_tuning.types import Initializer
from t5x import (
  adafactor,
  checkpoints,
  optimizers,
  partitioning,
  schedules,
  trainer,
  utils,
)
from t5x.configuration import run_configuration
from t5x.runs import evaluation, events, training

_BEST_METRIC = ".*/(?!invalid).*"


@dataclasses.dataclass(frozen=True)
class Base:
  """A base model.

  Attributes:
    checkpoint: Its parameters.
    config: Sizes of the network.
    vocabulary: Of inputs and targets.
  """

  checkpoint: checkpoints.BaseCheckpoint
  config: T5Config
  vocabulary: seqio.Vocabulary

  def injections(self, length: int, init: Initializer) -> Injections:
    """Returns a prompt's place in the network."""
    return Injections(
      prompt=functools.partial(prompts.Prompt, length=length, prompt_init=init)
    )

  def partitioner(self, injections: Injections) -> Any:
    """Returns where everything lies: a copy of the model on every device."""
    return partitioning.PjitPartitioner(
      num_partitions=1,
      logical_axis_rules=partitioning.standard_logical_axis_rules(
        additional_rules=injections_lib.axis_rules(injections)
      ),
    )

  def restore_cfg(
    self, injections: Injections
  ) -> utils.RestoreCheckpointConfig:
    """Says what is read from the checkpoint: all but the prompt."""
    return utils.RestoreCheckpointConfig(
      path=self.checkpoint.path,
      checkpoint=self.checkpoint,
      mode="specific",
      assignment_map=injections_lib.assignment_map(injections),
      fallback_to_scratch=True,
      dtype="float32",
    )


@dataclasses.dataclass(frozen=True)
class Settings:
  """How a prompt is trained.

  Attributes:
    length: Positions of the prompt, P.
    steps: Of training.
    init: See `initializers.initializer`.
    learning_rate: Constant.
    batch_size: Examples of a step.
    seed: Of the initial prompt, of dropout and of the examples' order.
    eval_period: Steps between evaluations, of which the best counts; None: ten
      of them.
    stats_period: Steps between training losses; None: those between
      evaluations.
    rank: Whether validation ranks the labels instead of generating text.
    folder: The run's folder, with its checkpoints, its record and its prompt;
      a run that was interrupted there goes on.

  Raises:
    ValueError: if a number is too small, or not the length of `init`.
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
    """Steps between evaluations, and between checkpoints."""
    return self.eval_period or max(1, self.steps // 10)

  def configuration(
    self, base: Base, examples: Examples
  ) -> run_configuration.RunConfiguration:
    """Returns what the run's folder remembers: it goes on with no other."""
    init = self.init
    if init is not None and not isinstance(init, str):
      init = hashlib.sha256(np.asarray(init, np.float32).tobytes()).hexdigest()
    return run_configuration.of_settings(
      "train",
      {
        "train.relative_steps": self.steps,
        "train.eval_period": self.period,
        "train.random_seed": self.seed,
        "train.batch_size": self.batch_size,
        "train.learning_rate": self.learning_rate,
        "train.rank": self.rank,
        "task.name": examples.task.name,
        "task.lengths": dict(examples.train_lengths),
        "prompt.length": self.length,
        "prompt.init": init,
        "model.config": base.config,
      },
    )


def tune(
  base: Base,
  examples: Examples,
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
    base.checkpoint,
    base.vocabulary,
  )
  method = base.injections(settings.length, init)
  prompt_file = os.path.join(settings.folder, "prompt.safetensors")
  train_cfg = utils.DatasetConfig(
    mixture_or_task_name=examples.task,
    task_feature_lengths=examples.train_lengths,
    split="train",
    batch_size=settings.batch_size,
    shuffle=True,
    seed=settings.seed,
  )
  save_best = actions.SaveBestPrompt(
    settings.folder, train_cfg.name, _BEST_METRIC, base.vocabulary, method
  )
  outcome = training.train(
    model=prediction.make_model(
      base.config,
      base.vocabulary,
      method,
      optimizer_def=_optimizer(method),
      ranked=examples.labels if settings.rank else None,
    ),
    train_dataset_cfg=train_cfg,
    train_eval_dataset_cfg=None,
    infer_eval_dataset_cfg=_evaluated(examples, settings.batch_size)
    if examples.has_validation
    else None,
    checkpoint_cfg=_checkpoint_cfg(base, method, settings.period),
    partitioner=base.partitioner(method),
    trainer_cls=functools.partial(
      trainer.Trainer,
      learning_rate_fn=schedules.create_learning_rate_scheduler(
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
    configuration=settings.configuration(base, examples),
    on_event=on_event,
    should_stop=should_stop,
  )
  if outcome.best is None:  # Nothing was evaluated: the last one counts.
    save_best.save(outcome.train_state)
  return dataclasses.replace(
    TunedPrompt.load(prompt_file), status=outcome.status, evals=outcome.evals
  )


def _optimizer(method: Injections) -> optimizers.MultiOptimizer:
  """Makes the recipe's: Adafactor, for the prompt alone."""
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
  base: Base, method: Injections, period: int
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
    restore=base.restore_cfg(method),
  )


def _evaluated(examples: Examples, batch_size: int) -> utils.DatasetConfig:
  return utils.DatasetConfig(
    mixture_or_task_name=examples.task,
    task_feature_lengths=examples.eval_lengths,
    split="validation",
    batch_size=batch_size,
    shuffle=False,
    seed=42,
  )


def evaluate(
  base: Base,
  examples: Examples,
  prompt: np.ndarray | None,
  folder: str,
  batch_size: int,
  rank: bool,
  on_event: events.OnEvent,
) -> Mapping[str, float]:
  """Evaluates on the split "validation", as `python -m t5x.eval` does.

  Args:
    base: The base model.
    examples: With that split.
    prompt: [P, H], or None for the model alone.
    folder: For the record and the predictions.
    batch_size: Examples of a batch.
    rank: Whether the labels are ranked instead of generating text.
    on_event: Called after every batch.

  Returns:
    Metric -> value, those of a mixture's tasks as "task/metric".
  """
  method = Injections()
  if prompt is not None:
    method = base.injections(len(prompt), prompts.from_array(prompt))
  metrics = evaluation.evaluate(
    model=prediction.make_model(
      base.config,
      base.vocabulary,
      method,
      ranked=examples.labels if rank else None,
    ),
    dataset_cfg=_evaluated(examples, batch_size),
    restore_checkpoint_cfg=base.restore_cfg(method),
    partitioner=base.partitioner(method),
    output_dir=folder,
    inference_evaluator_cls=evaluation_lib.Evaluator,
    summarize_config_fn=None,
    fallback_init_rng=0,
    on_event=on_event,
  )
  if len(metrics) == 1:
    return next(iter(metrics.values()))
  return {
    f"{t}/{name}": x for t, xs in metrics.items() for name, x in xs.items()
  }
