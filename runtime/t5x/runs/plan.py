"""The plan of a training run, and its outcome."""

from collections.abc import Callable, Mapping
import dataclasses
from typing import Any

import seqio

from t5x import models, partitioning, utils
from t5x import trainer as trainer_lib
from t5x.configuration import identity
from t5x.runs import events
from t5x.train_state import TrainState


@dataclasses.dataclass(frozen=True)
class Outcome:
  """The end of a run.

  Attributes:
    model_dir: The run's folder.
    status: "finished"; "stopped", by an action; or "interrupted", because the
      caller wanted it to stop: the next call resumes it.
    step: The last step that was done, counted from pretraining step 0.
    first_step: The step that the run began with.
    last_step: The step that it was to end with.
    evals: Its inference evaluations: {"step", "metrics", "score"}.
    best: The best of them, if they are compared.
    was_over: Whether it had ended before, so that nothing was done.
    train_state: The state after the last step.
  """

  model_dir: str
  status: str
  step: int
  first_step: int
  last_step: int
  evals: list[dict[str, Any]]
  best: Mapping[str, Any] | None
  was_over: bool
  train_state: TrainState = dataclasses.field(repr=False)


@dataclasses.dataclass(frozen=True, kw_only=True)
class Plan:
  """The arguments of `train`, checked, as every part of the run reads them.

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
    gc_period: Steps between Python's garbage collections, which are off in
      between, in the whole program; 0 leaves the collector alone.
    configuration: The run's settings: a folder resumes only a run of the same
      settings. None resumes any.
    on_event: Called with every event of the run.
    should_stop: Asked after every step of training and batch of evaluation;
      True saves the state and ends the run.
  """

  model: models.EncoderDecoderModel
  train_dataset_cfg: utils.DatasetConfig
  train_eval_dataset_cfg: utils.DatasetConfig | None
  infer_eval_dataset_cfg: utils.DatasetConfig | None
  checkpoint_cfg: utils.CheckpointConfig
  partitioner: partitioning.PjitPartitioner
  trainer_cls: Callable[..., trainer_lib.Trainer]
  model_dir: str
  total_steps: int | None
  eval_steps: int
  eval_period: int
  relative_steps: int | None
  stats_period: int | None
  random_seed: int | None
  use_hardware_rng: bool
  summarize_config_fn: Callable[..., None] | None
  inference_evaluator_cls: Callable[..., seqio.Evaluator]
  actions: trainer_lib.ActionMap | None
  run_eval_before_training: bool
  concurrent_metrics: bool
  gc_period: int
  configuration: identity.RunConfiguration | None
  on_event: events.OnEvent
  should_stop: events.ShouldStop

  def __post_init__(self):
    check_periods(
      eval_period=self.eval_period,
      checkpoint_period=self.save_cfg.period,
      stats_period=self.stats_period,
    )
    if self.train_eval_dataset_cfg is not None and self.eval_steps < 1:
      raise ValueError(
        f"EVAL_STEPS={self.eval_steps}: expected at least one batch."
      )
    if self.relative_steps is not None and self.relative_steps < 0:
      raise ValueError(
        f"TRAIN_STEPS_RELATIVE={self.relative_steps}: expected 0 or more."
      )
    if unknown := set(self.actions or ()) - set(
      trainer_lib.ActionMode.__members__
    ):
      raise ValueError(
        f"Unknown action modes {sorted(unknown)}; expected some of "
        f"{list(trainer_lib.ActionMode.__members__)}."
      )
    if (self.total_steps is None) == (self.relative_steps is None):
      raise ValueError(
        "Give one of TRAIN_STEPS, counted from pretraining step 0, and "
        "TRAIN_STEPS_RELATIVE, counted from the restored step."
      )

  @property
  def save_cfg(self) -> utils.SaveCheckpointConfig:
    """When to save, and how many checkpoints to keep."""
    return self.checkpoint_cfg.save or utils.SaveCheckpointConfig()

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
      if last < step:
        raise ValueError(
          f"TRAIN_STEPS_RELATIVE={self.relative_steps} ends at step {last}, "
          f"but the run in {self.model_dir} is at step {step}. Give more "
          "steps, or choose another MODEL_DIR."
        )
      return last
    assert self.total_steps is not None, "one of the two is given"
    if self.total_steps < step:
      raise ValueError(
        f"TRAIN_STEPS={self.total_steps} lies before the restored step {step}: "
        "it counts from pretraining step 0. Set TRAIN_STEPS_RELATIVE to count "
        "from the restored step."
      )
    return self.total_steps


def check_periods(**periods: int | None) -> None:
  """Checks that the largest period is a multiple of the others.

  Raises:
    ValueError: if it is not, or a period is less than one step.
  """
  for name, period in periods.items():
    if period is not None and period < 1:
      raise ValueError(f"Expected {name} of at least 1, got {period}.")
  values = [period for period in periods.values() if period]
  if values and any(max(values) % period for period in values):
    raise ValueError(
      f"Each of these periods must divide the largest: {periods}."
    )
