"""Plans of runs: the arguments of `train`, `evaluate` and `infer`."""

from collections.abc import Callable, Mapping
import dataclasses
import functools
import inspect
from typing import Annotated, Any

import jax
from pydantic import Field, NonNegativeInt, PositiveInt
import seqio

from t5x import checkpoints, gin_utils, models, partitioning, utils
from t5x import trainer as trainer_lib
from t5x.configuration import arguments, checks, identity
from t5x.files import failures
from t5x.input import damage
from t5x.input.datasets import DatasetConfig
from t5x.runs import events, initialization
from t5x.train_state import TrainState

# JAX takes larger seeds modulo 2**32: two seeds would give the same run.
Seed = Annotated[int, Field(ge=0, lt=2**32)]


@dataclasses.dataclass(frozen=True)
class Outcome:
  """The end of a run.

  Attributes:
    model_dir: The run's folder.
    status: "finished"; "stopped", by an action; or "interrupted", by the
      caller: the next call resumes it.
    step: The last completed step, counted from pretraining step 0.
    evals: Its inference evaluations: {"step", "metrics", "score"}.
    best: The best evaluation, if they are compared.
    was_over: Whether the run had ended before, so that nothing was done.
    train_state: The state after the last step.
  """

  model_dir: str
  status: str
  step: int
  evals: list[dict[str, Any]]
  best: Mapping[str, Any] | None
  was_over: bool
  train_state: TrainState = dataclasses.field(repr=False)


@dataclasses.dataclass(frozen=True, kw_only=True)
class Plan:
  """The checked arguments of `train`, which every part of the run reads.

  Attributes:
    model: The model.
    train_dataset_cfg: The training examples.
    train_eval_dataset_cfg: Examples for the loss without dropout, or None.
    infer_eval_dataset_cfg: Examples to decode and score, or None.
    checkpoint_cfg: The base model, and when to save.
    partitioner: Places parameters and batches on the devices.
    trainer_cls: `trainer.Trainer`, with its learning rate bound.
    model_dir: The run's folder.
    total_steps: The last step, counted from pretraining step 0, or None.
    eval_steps: Batches of each training evaluation.
    eval_period: Steps between evaluations.
    relative_steps: Steps of this run, instead of `total_steps`.
    stats_period: Steps between training metrics; None is `eval_period`.
    random_seed: Seed of initialisers and dropout; None draws one.
    use_hardware_rng: Whether to use the device's own generator.
    summarize_config_fn: Writes the configuration to the folder, or None.
    inference_evaluator_cls: `seqio.Evaluator`.
    actions: Name of a `trainer.ActionMode` -> actions to run after it.
    run_eval_before_training: Whether to evaluate the initial state too.
    concurrent_metrics: Whether a separate thread computes the metrics; training
      waits for them, because its actions need them.
    gc_period: Steps between garbage collections, which are off in between, in
      the whole program; 0 leaves the collector alone.
    configuration: The run's settings: a run in the folder resumes only with the
      same settings. None resumes any run.
    on_event: Called with every event of the run.
    should_stop: Called after every training step and evaluation batch; True
      saves the state and ends the run.
  """

  model: models.EncoderDecoderModel
  train_dataset_cfg: utils.DatasetConfig
  train_eval_dataset_cfg: utils.DatasetConfig | None
  infer_eval_dataset_cfg: utils.DatasetConfig | None
  checkpoint_cfg: utils.CheckpointConfig
  partitioner: partitioning.PjitPartitioner
  trainer_cls: Callable[..., trainer_lib.Trainer]
  model_dir: str
  total_steps: NonNegativeInt | None
  eval_steps: PositiveInt
  eval_period: PositiveInt
  relative_steps: NonNegativeInt | None = None
  stats_period: PositiveInt | None = None
  random_seed: Seed | None
  use_hardware_rng: bool = False
  summarize_config_fn: Callable[..., None] | None = None
  inference_evaluator_cls: Callable[..., seqio.Evaluator] = seqio.Evaluator
  actions: trainer_lib.ActionMap | None = None
  run_eval_before_training: bool = False
  concurrent_metrics: bool = True
  gc_period: NonNegativeInt = 0
  configuration: identity.RunConfiguration | None = None
  on_event: events.OnEvent = events.ignore
  should_stop: events.ShouldStop = events.never

  def __post_init__(self):
    ends = ("_steps", "_period", "_seed", "actions")
    checked = {k: x for k, x in vars(self).items() if k.endswith(ends)}
    arguments.check(Plan, checked)
    modes = list(trainer_lib.ActionMode.__members__)
    if unknown := set(self.actions or ()) - set(modes):
      raise ValueError(
        f"Unknown action modes {sorted(unknown)}; expected some of {modes}."
      )
    checks.refuse(
      checks.wrong_periods(
        self.eval_period,
        self.save_cfg.period,
        self.stats_period,
        self.total_steps,
        self.relative_steps,
      )
    )

  @property
  def save_cfg(self) -> utils.SaveCheckpointConfig:
    """When to save, and how many checkpoints to keep."""
    return self.checkpoint_cfg.save or utils.SaveCheckpointConfig()

  def rngs(self, seed: int) -> jax.Array:
    """Returns the keys of initialisers and of dropout."""
    impl = "unsafe_rbg" if self.use_hardware_rng else None
    return jax.random.split(jax.random.key(seed, impl=impl))

  def actions_after(self, mode: str) -> list[trainer_lib.BaseAction]:
    """Returns the actions of a `trainer.ActionMode`, given by its name."""
    return list((self.actions or {}).get(mode, ()))

  def last_step(self, first_step: int, step: int) -> int:
    """Returns the step to end with, counted from pretraining step 0.

    Args:
      first_step: The step that the run began with.
      step: The step that it has reached.

    Raises:
      ValueError: if the run is beyond its last step.
    """
    if self.relative_steps is not None:
      last = first_step + self.relative_steps
    else:
      assert self.total_steps is not None, "one of the two is given"
      last = self.total_steps
    if last < step:
      raise ValueError(
        f"The run should end at step {last}, but {self.model_dir} is at step "
        f"{step}: TRAIN_STEPS counts from pretraining step 0, "
        "TRAIN_STEPS_RELATIVE from the restored step. Give more steps, or "
        "choose another folder."
      )
    return last


@dataclasses.dataclass(frozen=True, kw_only=True)
class FrozenPlan:
  """The arguments that `evaluate` and `infer` share.

  Attributes:
    model: The model.
    dataset_cfg: The examples.
    restore_checkpoint_cfg: The weights.
    partitioner: Places parameters and batches on the devices.
    output_dir: The folder of `record.json`, predictions and `config.gin`.
    fallback_init_rng: Seed for parameters that come from initialisers, such as
      a prompt that is read from a file.
    summarize_config_fn: Writes the configuration, if there is one to write.
    configuration: The settings, for the record.
    on_event: Called after every batch or chunk; its steps count examples.
    should_stop: Called after every batch or chunk; True ends the run.
  """

  model: models.EncoderDecoderModel
  dataset_cfg: utils.DatasetConfig
  restore_checkpoint_cfg: utils.RestoreCheckpointConfig
  partitioner: partitioning.PjitPartitioner
  output_dir: str
  fallback_init_rng: Seed | None = None
  summarize_config_fn: Callable[..., None] | None = (
    gin_utils.summarize_gin_config
  )
  configuration: identity.RunConfiguration | None = None
  on_event: events.OnEvent = events.ignore
  should_stop: events.ShouldStop = events.never

  def restore(
    self, input_shapes: Mapping[str, tuple[int, ...]]
  ) -> tuple[TrainState, TrainState, checkpoints.BaseCheckpoint]:
    """Reads the parameters, all of them frozen.

    Args:
      input_shapes: Shapes of a batch.

    Returns:
      The state, its shardings, and the checkpoint that it was read from.

    Raises:
      ValueError: if the checkpoint does not fit the model.
    """
    initializer = initialization.TrainStateInitializer(
      None, self.model.get_initial_variables, input_shapes, self.partitioner
    )
    seed = self.fallback_init_rng
    state, base = initializer.from_base_model(
      self.restore_checkpoint_cfg,
      None if seed is None else jax.random.key(seed),
    )
    return state, initializer.train_state_axes, base

  def summarize(self, step: int) -> None:
    """Writes the configuration to the folder."""
    if self.summarize_config_fn is not None:
      self.summarize_config_fn(self.output_dir, None, step)


def with_arguments_of(
  plan_cls: type,
) -> Callable[[Callable[[Any], Any]], Callable[..., Any]]:
  """Makes a function of a plan take the plan's arguments, so gin binds them."""

  def decorate(run: Callable[[Any], Any]) -> Callable[..., Any]:
    def call(**arguments):
      plan = plan_cls(**arguments)
      cfgs = [x for x in vars(plan).values() if isinstance(x, DatasetConfig)]
      try:
        with damage.named(cfgs):
          return run(plan)
      except OSError as error:
        # From a library that writes to the folder, and may not name the file.
        folder = vars(plan).get("output_dir") or plan.model_dir
        place = error.filename or folder
        raise failures.explain(error, place) or error from error

    functools.update_wrapper(call, run)
    del vars(call)["__wrapped__"]  # gin would look for the arguments there.
    vars(call)["__signature__"] = inspect.signature(plan_cls)
    return call

  return decorate
