"""Trains a model: `python -m t5x.train --gin_file=... --gin.X=...`."""

from collections.abc import Callable
import contextlib
import dataclasses
import functools
import gc
import os
import sys
from typing import Any

import jax
import seqio

from t5x import (
  checkpoints,
  gin_utils,
  initialization,
  models,
  multihost,
  partitioning,
  records,
  training_loop,
  truncation,
  utils,
)
from t5x import eval as eval_lib
from t5x import trainer as trainer_lib
from t5x.train_state import TrainState, count_parameters, write_model_info


def _check_periods(**periods: int | None) -> None:
  """Refuses periods of which none divides the other."""
  for name, period in periods.items():
    if period is not None and period < 1:
      raise ValueError(f"Expected {name} of at least 1, got {period}.")
  values = [period for period in periods.values() if period]
  if values and any(max(values) % period for period in values):
    raise ValueError(
      f"Each of these periods must divide the largest: {periods}."
    )


@dataclasses.dataclass
class _Start:
  """Where a run begins, or goes on.

  Attributes:
    state: The state.
    first_step: The step that the run began with.
    base: The base model, if there is one.
    base_fingerprint: Of what is frozen, if anything is.
    evals: The inference evaluations so far.
    seconds: The time that the run took so far.
  """

  state: TrainState
  first_step: int
  base: checkpoints.BaseCheckpoint | None
  base_fingerprint: str | None
  evals: list[dict[str, Any]]
  seconds: float

  @property
  def is_evaluated(self) -> bool:
    """Whether this very state was."""
    return bool(self.evals) and self.evals[-1]["step"] == int(self.state.step)


def _start(
  initializer: initialization.TrainStateInitializer,
  restore_cfg: utils.RestoreCheckpointConfig | None,
  checkpointer: checkpoints.Checkpointer,
  init_rng: jax.Array,
  model_dir: str,
  task: str,
) -> _Start:
  """Reads the base model, and the run's latest checkpoint if it has one."""
  base = None
  if restore_cfg is not None and restore_cfg.path is not None:
    state, base = initializer.from_base_model(restore_cfg, init_rng)
  else:
    state = initializer.from_scratch(init_rng)
  identity = checkpoints.fingerprint(state.frozen) if state.frozen else None
  if checkpointer.latest_step() is None:
    return _Start(state, int(state.step), base, identity, [], 0.0)
  # What trains is read anew: the devices need not hold it twice.
  frozen = state.frozen
  del state
  restored, run_info = checkpointer.restore_run(initializer.train_state_axes)
  if run_info["base_fingerprint"] != identity:
    raise ValueError(
      f"{model_dir} was trained on the base model "
      f"{run_info['base_fingerprint']}, this one is {identity}. Give its "
      "INITIAL_CHECKPOINT_PATH, or choose another MODEL_DIR."
    )
  if run_info["task"] != task:
    raise ValueError(
      f"{model_dir} was trained on {run_info['task']}, this run is on {task}. "
      "Choose another MODEL_DIR."
    )
  return _Start(
    restored.replace(frozen=frozen),
    run_info["first_step"],
    base,
    identity,
    run_info["evals"],
    run_info["seconds"],
  )


def train(
  *,
  model: models.EncoderDecoderModel,
  train_dataset_cfg: utils.DatasetConfig,
  train_eval_dataset_cfg: utils.DatasetConfig | None,
  infer_eval_dataset_cfg: utils.DatasetConfig | None,
  checkpoint_cfg: utils.CheckpointConfig,
  partitioner: partitioning.PjitPartitioner,
  trainer_cls: Callable[..., trainer_lib.Trainer],
  model_dir: str,
  total_steps: int | None,
  eval_steps: int,
  eval_period: int,
  relative_steps: int | None = None,
  stats_period: int | None = None,
  random_seed: int | None,
  use_hardware_rng: bool = False,
  summarize_config_fn: Callable[..., None],
  inference_evaluator_cls: Callable[..., seqio.Evaluator] = seqio.Evaluator,
  actions: trainer_lib.ActionMap | None = None,
  run_eval_before_training: bool = False,
  concurrent_metrics: bool = True,
  use_orbax: bool = True,
  gc_period: int = 0,
) -> str:
  """Trains, evaluates and saves, and goes on where it was stopped.

  Args:
    model: The model.
    train_dataset_cfg: What to train on.
    train_eval_dataset_cfg: Where to compute the loss without dropout, or None.
    infer_eval_dataset_cfg: Where to decode and compute metrics, or None.
    checkpoint_cfg: The base model, and when to save.
    partitioner: Where everything lies.
    trainer_cls: `trainer.Trainer`, its learning rate bound by gin.
    model_dir: The run's folder.
    total_steps: The last step, counted from pretraining step 0, or None.
    eval_steps: Batches of each training evaluation.
    eval_period: Steps between evaluations.
    relative_steps: Steps of this run, instead of `total_steps`.
    stats_period: Steps between training metrics; None is `eval_period`.
    random_seed: Of initialisers and dropout; None draws one.
    use_hardware_rng: Whether to use the device's own generator.
    summarize_config_fn: Writes the configuration.
    inference_evaluator_cls: `seqio.Evaluator`.
    actions: Name of a `trainer.ActionMode` -> actions to run after it.
    run_eval_before_training: Whether to evaluate the initial state too.
    concurrent_metrics: Whether metrics are computed in a thread of their own;
      training waits for them, as its actions need them.
    use_orbax: Must be True.
    gc_period: Steps between Python's garbage collections; 0 leaves it alone.

  Returns:
    "finished", or "stopped" if an action ended the run.

  Raises:
    SystemExit: with 128 + its number, after a signal; started again, the run
      goes on as if nothing had happened.
    ValueError: for a wrong configuration.
    FloatingPointError: if the loss is not a number.
  """
  if not use_orbax:
    raise ValueError(
      "Checkpoints are written by Orbax: use_orbax must be True."
    )
  save_cfg = checkpoint_cfg.save or utils.SaveCheckpointConfig()
  _check_periods(
    eval_period=eval_period,
    checkpoint_period=save_cfg.period,
    stats_period=stats_period,
  )
  unknown = set(actions or {}) - set(trainer_lib.ActionMode.__members__)
  if unknown:
    raise ValueError(
      f"Unknown action modes {sorted(unknown)}; expected some of "
      f"{list(trainer_lib.ActionMode.__members__)}."
    )
  if (total_steps is None) == (relative_steps is None):
    raise ValueError(
      "Give one of TRAIN_STEPS, counted from pretraining step 0, and "
      "TRAIN_STEPS_RELATIVE, counted from the restored step."
    )
  records.make_folder(model_dir, "MODEL_DIR", "train")
  if use_hardware_rng:
    jax.config.update("jax_default_prng_impl", "unsafe_rbg")
  if random_seed is None:
    random_seed = int.from_bytes(os.urandom(4), "little") >> 1
    random_seed = int(multihost.of_first_process(random_seed))
  init_rng, train_rng = jax.random.split(jax.random.key(random_seed))

  utils.verify_matching_vocabs(train_dataset_cfg, model)
  layout = partitioner.get_data_layout(train_dataset_cfg.batch_size)
  shard = (layout.shard_id, layout.num_shards)
  dataset = utils.get_dataset(
    train_dataset_cfg, *shard, model.feature_converter_cls
  )
  train_evals = {}
  if train_eval_dataset_cfg is not None:
    train_evals = utils.get_training_eval_datasets(
      train_eval_dataset_cfg, *shard, eval_steps, model.feature_converter_cls
    )
  # Splits that are cut to TASK_FEATURE_LENGTHS.
  cuts = {
    cfg.split: truncation.report_cuts(cfg)
    for cfg in (train_dataset_cfg, train_eval_dataset_cfg)
    if cfg is not None
  }
  evaluator = None
  if infer_eval_dataset_cfg is not None:
    evaluator = eval_lib.InferenceEvaluator(
      infer_eval_dataset_cfg,
      functools.partial(
        inference_evaluator_cls, async_compute_metrics=concurrent_metrics
      ),
      model,
      partitioner,
      os.path.join(model_dir, "inference_eval"),
    )

  initializer = initialization.TrainStateInitializer(
    model.optimizer_def,
    model.get_initial_variables,
    {
      name: (train_dataset_cfg.batch_size, *spec.shape[1:])
      for name, spec in dataset.element_spec.items()
    },
    partitioner,
  )
  axes = initializer.train_state_axes
  checkpointer = save_cfg.checkpointer_cls(
    train_state=initializer.train_state_shapes,
    partitioner=partitioner,
    checkpoints_dir=model_dir,
    keep=save_cfg.keep,
  )
  task = train_dataset_cfg.mixture_or_task_name
  start = _start(
    initializer, checkpoint_cfg.restore, checkpointer, init_rng, model_dir, task
  )
  state, step = start.state, int(start.state.step)
  last_step = (
    start.first_step + relative_steps
    if relative_steps is not None
    else total_steps
  )
  assert last_step is not None, "one of the two is given"
  if last_step < step:
    raise ValueError(
      f"TRAIN_STEPS={last_step} lies before the restored step {step}: it "
      "counts from pretraining step 0. Set TRAIN_STEPS_RELATIVE to count from "
      "the restored step."
    )
  is_over = step == last_step and (evaluator is None or start.is_evaluated)
  before = records.read(model_dir) or {}
  status = before.get("status")
  # If it is over and the record does not say so, it was killed between the two.
  if (is_over and status == "finished") or (
    # By an action; with other settings it may go on.
    status == "stopped" and before["command"] == records.command()
  ):
    print(
      f"{model_dir} is over already, {status} at step {step}.", file=sys.stderr
    )
    checkpointer.close()
    return status

  log = records.MetricLog(model_dir, step)
  write_model_info(os.path.join(model_dir, "model-info.txt"), state, axes)
  record = records.RunRecord(
    model_dir,
    "train",
    seconds_before=start.seconds,
    base=records.base_facts(start.base) if start.base else None,
    parameters=count_parameters(state),
    data={
      "train": task,
      "train_split": train_dataset_cfg.split,
      "train_examples": train_dataset_cfg.num_input_examples(),
      "eval_split": infer_eval_dataset_cfg and infer_eval_dataset_cfg.split,
      "eval_examples": evaluator and evaluator.counts,
      "batch_size": train_dataset_cfg.batch_size,
      "lengths": dict(train_dataset_cfg.task_feature_lengths or {}),
      "cut": cuts,
    },
    seed=random_seed,
    steps={"first": start.first_step, "last": last_step},
    evals=start.evals,
    best=checkpointer.best(start.evals),
  )
  for action in (actions or {}).get("INFER_EVAL", ()):
    action.resume([e["metrics"] for e in start.evals])
  loop = training_loop.Loop(
    task=task,
    trainer=trainer_cls(
      model=model,
      train_state=state,
      partitioner=partitioner,
      train_state_axes=axes,
      rng=train_rng,
    ),
    train_state_axes=axes,
    batches=dataset.skip(step - start.first_step).as_numpy_iterator(),
    train_evals=train_evals,
    evaluator=evaluator,
    checkpointer=checkpointer,
    base=start.base
    and {
      "path": checkpoints.absolute(
        checkpoints.find_checkpoint(start.base.path)
      ),
      "fingerprint": start.base.fingerprint,
    },
    base_fingerprint=start.base_fingerprint,
    record=record,
    log=log,
    actions=actions or {},
    step=step,
    first_step=start.first_step,
    last_step=last_step,
    eval_period=eval_period,
    stats_period=stats_period or eval_period,
    save_period=save_cfg.period or last_step,
    eval_first=run_eval_before_training,
    gc_period=gc_period,
    evals=start.evals,
  )
  # The loop owns the state: its buffers are donated step by step.
  del start, state
  if gc_period:
    gc.disable()
  with contextlib.ExitStack() as stack:
    stack.enter_context(record)
    # Whatever ends the run, what it began to write is finished.
    for resource in (checkpointer, log, evaluator):
      if resource is not None:
        stack.callback(resource.close)
    summarize_config_fn(model_dir, log.summary_writer, loop.step)
    status = "finished" if is_over else loop.run()
    checkpointer.wait()
    record.write(status=status, step=loop.step)
  if status == "interrupted":
    print(
      f"Stopped at step {loop.step}; the same command goes on.", file=sys.stderr
    )
    sys.exit(128 + loop.stop_signal)
  return status


if __name__ == "__main__":
  gin_utils.run_entry_point(train)
