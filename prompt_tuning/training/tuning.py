"""Tuning of prompts by the trainer, without gin.

With the settings of `gin/recipes/prompt_tuning.gin`, results are the same as
with gin.
"""

from collections.abc import Sequence
import dataclasses
import functools
import hashlib
import math
import os
from typing import Annotated, Any

from flax import traverse_util
import jax
import numpy as np
from pydantic import Field, NonNegativeInt, PositiveInt
import seqio

from prompt_tuning import injections as injections_lib
from prompt_tuning import prompts
from prompt_tuning.data import vocabulary as vocabulary_lib
from prompt_tuning.data.text_pairs import PairTask
from prompt_tuning.inference import ranking
from prompt_tuning.inference.frozen_model import FrozenModel
from prompt_tuning.inference.requests import TunedPrompt
from prompt_tuning.injections import Injections
from prompt_tuning.methods import trainable
from prompt_tuning.models import networks
from prompt_tuning.models.layers import Config
from prompt_tuning.training import (
  actions,
  defaults,
  evaluation,
)
from prompt_tuning.types import Initializer
from t5x import (
  adafactor,
  by_length,
  checkpoints,
  decoding,
  models,
  optimizers,
  partitioning,
  trainer,
  utils,
)
from t5x.configuration import arguments, identity
from t5x.runs import events, training

# In training, inputs are cut to this many tokens.
LONGEST = 512
_BEST_METRIC = ".*/(?!invalid).*"
INITS = ("class_labels", "sampled_vocab", "random_uniform")
# Most tokens that a prompt is sampled from, the frequent ones (section 3.2).
_POPULATION = 5000
# The recipe's optimizer.
_ADAFACTOR = adafactor.Adafactor(
  decay_rate=0.8,
  step_offset=0,
  multiply_by_parameter_scale=False,
  weight_decay_rate=1e-5,
)


@dataclasses.dataclass(frozen=True, kw_only=True)
class Settings:
  """Settings of a run.

  Attributes:
    length: Positions of the prompt.
    init: "class_labels", "sampled_vocab", "random_uniform", or a prompt [P, H]
      to start from. By default the labels, if there are any.
    steps: Training steps.
    learning_rate: Constant.
    batch_size: Examples in a step.
    seed: Determines the initial prompt, dropout and the order of examples.
    eval_period: Steps between evaluations; by default a tenth of `steps`.
    stats_period: Steps between reports of the training loss to `on_event`; by
      default `eval_period`.
    rank: Whether validation ranks the labels instead of generating text.
    max_unknown: The largest share of the pieces of training inputs that may be
      unknown to the vocabulary.

  Raises:
    ValueError: if a value is of another type, a number is too small, or
      `length` is not that of `init`.
  """

  length: PositiveInt
  init: str | np.ndarray | None = None
  steps: PositiveInt = 300
  learning_rate: Annotated[float, Field(ge=0, lt=math.inf)] = 0.3
  batch_size: PositiveInt = 32
  seed: NonNegativeInt = 0
  eval_period: PositiveInt | None = None
  stats_period: PositiveInt | None = None
  rank: bool = False
  max_unknown: Annotated[float, Field(ge=0, le=1)] = 0.1

  def __post_init__(self):
    arguments.check(type(self), vars(self))
    if isinstance(self.init, np.ndarray) and len(self.init) != self.length:
      n, length = len(self.init), self.length
      raise ValueError(f"Expected the length of init, {n}, got {length=}.")

  @property
  def period(self) -> int:
    """Steps between evaluations, and between checkpoints."""
    return self.eval_period or max(1, self.steps // 10)


def make_model(
  config: Config,
  vocabulary: seqio.Vocabulary,
  method: Injections,
  optimizer_def: optimizers.OptimizerDef | None = None,
  ranked: Sequence[str] | None = None,
) -> models.EncoderDecoderModel:
  """Makes the model of the gin files: a network and its loss.

  Args:
    config: Sizes of the network.
    vocabulary: Of inputs and targets.
    method: The prompt's place in the network.
    optimizer_def: Selects the parameters that train, if any.
    ranked: The model answers with the likeliest of these labels; with None, it
      generates text by beam search with one beam.
  """
  arguments: dict[str, Any] = {
    "module": networks.make(config, method),
    "optimizer_def": optimizer_def,
    "decode_fn": decoding.beam_search,
    "z_loss": 1e-4,
  }
  if len(config.stacks) > 1:
    make = models.EncoderDecoderModel
    names = ("input_vocabulary", "output_vocabulary")
    arguments |= dict.fromkeys(names, vocabulary)
    arguments["ends_inputs"] = config.ends_inputs
  else:
    make, arguments["vocabulary"] = models.DecoderOnlyModel, vocabulary
  if ranked is None:
    return make(**arguments)
  arguments["decode_fn"] = functools.partial(
    ranking.rank_labels, labels=tuple(ranked), vocabulary=vocabulary
  )
  model = make(**arguments)
  model.predict_batch_with_aux = functools.partial(
    model.predict_batch_with_aux, num_decodes=len(ranked)
  )
  return model


def make_partitioner(method: Injections) -> partitioning.PjitPartitioner:
  """Makes a partitioner that copies the model to every device."""
  rules = partitioning.standard_logical_axis_rules(
    additional_rules=injections_lib.axis_rules(method)
  )
  return partitioning.PjitPartitioner(
    num_partitions=1, logical_axis_rules=rules
  )


def restore_cfg(
  model: FrozenModel, method: Injections
) -> utils.RestoreCheckpointConfig:
  """Takes all parameters but the prompt from the model in memory."""
  return utils.RestoreCheckpointConfig(
    path=model.checkpoint,
    checkpoint=model.in_memory,
    assignment_map=injections_lib.assignment_map(method),
    fallback_to_scratch=True,
    dtype=model.config.param_dtype,
  )


def validation_cfg(examples: PairTask, batch_size: int) -> utils.DatasetConfig:
  """Returns the configuration of the split "validation"."""
  return utils.DatasetConfig(
    mixture_or_task_name=examples.task,
    task_feature_lengths=examples.lengths.get("validation"),
    split="validation",
    batch_size=batch_size,
    shuffle=False,
    seed=42,
  )


def tune(
  model: FrozenModel,
  examples: PairTask,
  settings: Settings,
  folder: str,
  on_event: events.OnEvent,
  should_stop: events.ShouldStop,
) -> TunedPrompt:
  """Trains a prompt as `python -m t5x.train` does; see `Model.tune`."""
  init = initializer(model, examples.labels, settings)
  method = Injections(prompt=prompts.prompt_factory(settings.length, init))
  is_prompt = trainable.matches_any(injections_lib.parameter_patterns(method))
  train_cfg = utils.DatasetConfig(
    mixture_or_task_name=examples.task,
    task_feature_lengths=_train_lengths(examples),
    split="train",
    batch_size=settings.batch_size,
    shuffle=True,
    seed=settings.seed,
    max_unknown=settings.max_unknown,
  )
  save_best = actions.SaveBestPrompt(
    *(folder, train_cfg.name, _BEST_METRIC, model.vocabulary, method),
    base_model=model.checkpoint,
  )
  is_by_length = defaults.is_by_length(
    jax.default_backend(), _train_lengths(examples)["inputs"]
  )
  subtasks = seqio.get_subtasks(examples.task)
  has_validation = any("validation" in x.splits for x in subtasks)
  outcome = training.train(
    model=make_model(
      model.config,
      model.vocabulary,
      method,
      optimizers.MultiOptimizer(
        ((traverse_util.ModelParamTraversal(is_prompt), _ADAFACTOR),)
      ),
      ranked=examples.labels if settings.rank else None,
    ),
    train_dataset_cfg=train_cfg,
    train_eval_dataset_cfg=None,
    infer_eval_dataset_cfg=validation_cfg(examples, settings.batch_size)
    if has_validation
    else None,
    checkpoint_cfg=_checkpoint_cfg(model, method, settings.period),
    partitioner=make_partitioner(method),
    trainer_cls=functools.partial(
      by_length.Trainer if is_by_length else trainer.Trainer,
      learning_rate_fn=optimizers.create_learning_rate_scheduler(
        factors="constant", base_learning_rate=settings.learning_rate
      ),
    ),
    model_dir=folder,
    total_steps=None,
    relative_steps=settings.steps,
    eval_steps=1,
    eval_period=settings.period,
    stats_period=settings.stats_period,
    random_seed=settings.seed,
    inference_evaluator_cls=evaluation.Evaluator,
    actions={"INFER_EVAL": [save_best]},
    concurrent_metrics=False,
    configuration=_configuration(model, examples, settings),
    on_event=on_event,
    should_stop=should_stop,
  )
  if outcome.best is None:  # Without evaluations, the last prompt counts.
    save_best.save(outcome.train_state)
  return dataclasses.replace(
    TunedPrompt.load(os.path.join(folder, "prompt.safetensors")),
    status=outcome.status,
    evals=outcome.evals,
  )


def _train_lengths(examples: PairTask) -> dict[str, int]:
  return {
    name: min(length, LONGEST)
    for name, length in examples.lengths["train"].items()
  }


def _checkpoint_cfg(
  model: FrozenModel, method: Injections, period: int
) -> utils.CheckpointConfig:
  save_best = functools.partial(
    checkpoints.SaveBestCheckpointer,
    metric_name_to_monitor=_BEST_METRIC,
    metric_mode="max",
  )
  return utils.CheckpointConfig(
    save=utils.SaveCheckpointConfig(
      period=period, keep=1, checkpointer_cls=save_best
    ),
    restore=restore_cfg(model, method),
  )


def _configuration(
  model: FrozenModel, examples: PairTask, settings: Settings
) -> identity.RunConfiguration:
  """Returns the identity of the run; a folder resumes only the same run."""
  init = settings.init
  if isinstance(init, np.ndarray):
    init = hashlib.sha256(np.asarray(init, np.float32).tobytes()).hexdigest()
  return identity.RunConfiguration.from_settings(
    "train",
    {
      "train.relative_steps": settings.steps,
      "train.eval_period": settings.period,
      "train.random_seed": settings.seed,
      "train.batch_size": settings.batch_size,
      "train.learning_rate": settings.learning_rate,
      "train.rank": settings.rank,
      "task.name": examples.task.name,
      "task.lengths": _train_lengths(examples),
      "prompt.length": settings.length,
      "prompt.init": init,
      "model.config": model.config,
    },
  )


def initializer(
  model: FrozenModel, labels: Sequence[str], settings: Settings
) -> Initializer:
  """Returns the initialiser of a prompt.

  Raises:
    ValueError: if the name is unknown, labels are missing, or there are more
      labels than positions or fewer frequent tokens than positions.
  """
  init, length = settings.init, settings.length
  if isinstance(init, np.ndarray):
    return prompts.from_array(init)
  if init is None:
    init = "class_labels" if labels else "sampled_vocab"
  if init not in INITS:
    raise ValueError(
      f"Expected init to be one of {', '.join(INITS)}, or a prompt, got "
      f"{init!r}."
    )
  if init == "random_uniform":
    return prompts.random_uniform()
  size = vocabulary_lib.most_frequent(model.vocabulary, _POPULATION)
  if length > size:
    raise ValueError(
      f"Expected at most length={size}, a frequent token for each position, "
      f"got {length=}. Shorten it, or pass init='random_uniform'."
    )
  table = model.embedding
  sampled = prompts.sampled_vocab(table, size)
  if init == "sampled_vocab":
    return sampled
  if not labels:
    raise ValueError(
      "A prompt that starts from class labels needs labels, and the targets "
      "are free text: pass labels, or init='sampled_vocab'."
    )
  if len(labels) > length:
    raise ValueError(
      f"Expected at least length={len(labels)}, a position for each label, "
      f"got {length=}. Lengthen it, or pass init='sampled_vocab'."
    )
  return prompts.class_labels(table, model.vocabulary, labels, sampled)
