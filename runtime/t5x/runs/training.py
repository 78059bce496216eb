"""Training as a function: `python -m t5x.train` is a command line for it."""

from collections.abc import Callable, Iterator
import contextlib
import dataclasses
import functools
import gc
import secrets

import jax
import seqio

from t5x import models, multihost, partitioning, utils
from t5x import trainer as trainer_lib
from t5x.configuration import run_configuration
from t5x.files import run_lock
from t5x.runs import (
  continuation,
  events,
  initialization,
  records,
  run_data,
  run_start,
)
from t5x.runs.open_run import OpenRun, Outcome


@dataclasses.dataclass(kw_only=True)
class Training:
  """A run, planned and checked; `train` makes one and runs it.

  Attributes:
    model: The model.
    train_dataset_cfg: What to train on.
    train_eval_dataset_cfg: Where to compute the loss without dropout, or None.
    infer_eval_dataset_cfg: Where to decode and compute metrics, or None.
    checkpoint_cfg: The base model, and when to save.
    partitioner: Where everything lies.
    trainer_cls: `trainer.Trainer`, its learning rate bound.
    model_dir: The run's folder.
    total_steps: The last step, counted from pretraining step 0, or None.
    eval_steps: Batches of each training evaluation.
    eval_period: Steps between evaluations.
    relative_steps: Steps of this run, instead of `total_steps`.
    stats_period: Steps between training metrics; None is `eval_period`.
    random_seed: Of initialisers and dropout; None draws one.
    use_hardware_rng: Whether to use the device's own generator.
    summarize_config_fn: Writes the configuration, if there is one to write.
    inference_evaluator_cls: `seqio.Evaluator`.
    actions: Name of a `trainer.ActionMode` -> actions to run after it.
    run_eval_before_training: Whether to evaluate the initial state too.
    concurrent_metrics: Whether metrics are computed in a thread of their own;
      training waits for them, as its actions need them.
    gc_period: Steps between Python's garbage collections, which are off
      meanwhile, in the whole program; 0 leaves it alone.
    configuration: What all of this is: a run goes on in its folder with the
      settings that it began with. None lets any go on.
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
  actions: trainer_lib.ActionMap
  run_eval_before_training: bool
  concurrent_metrics: bool
  gc_period: int
  configuration: run_configuration.RunConfiguration | None = None

  def __post_init__(self):
    _check_periods(
      eval_period=self.eval_period,
      checkpoint_period=self.save_cfg.period,
      stats_period=self.stats_period,
    )
    _check_microbatches(self.train_dataset_cfg.batch_size, self.configuration)
    if self.train_eval_dataset_cfg is not None and self.eval_steps < 1:
      raise ValueError(
        f"EVAL_STEPS={self.eval_steps}: expected at least one batch."
      )
    if self.relative_steps is not None and self.relative_steps < 0:
      raise ValueError(
        f"TRAIN_STEPS_RELATIVE={self.relative_steps}: expected 0 or more."
      )
    unknown = set(self.actions) - set(trainer_lib.ActionMode.__members__)
    if unknown:
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
    """When to save, and what to keep."""
    return self.checkpoint_cfg.save or utils.SaveCheckpointConfig()

  def run(
    self, on_event: events.OnEvent, should_stop: events.ShouldStop
  ) -> Outcome:
    """Runs to the end; see `train`."""
    run_configuration.check_same_everywhere(self.configuration, self.model_dir)
    records.make_folder(self.model_dir, "MODEL_DIR", "train")
    with contextlib.ExitStack() as stack:
      lock = run_lock.RunLock(self.model_dir, "MODEL_DIR")
      stack.enter_context(lock)
      records.note_killed(self.model_dir)
      known = continuation.check(self.model_dir, self.configuration)
      initialization.check_base(self.checkpoint_cfg.restore)
      run = self._open(stack)
      run.checkpointer.check_lock = lock.check
      run.resume()
      before = records.read(self.model_dir) or {}
      # Of a run without a configuration, its length alone is known.
      steps = before.get("steps") or {"last": run.last_step}
      is_same = not known.differences and steps["last"] == run.last_step
      status = run_start.status_if_over(
        before, run.start.step, run.is_done, is_same
      )
      if status is not None:
        known.check_over(status, run.start.step)
        return run.outcome(status, run.state, was_over=True)
      record = stack.enter_context(run.record(known, lock))
      log = records.MetricLog(
        self.model_dir,
        run.start.step,
        run.start.evals,
        is_evaluated=run.is_done or run.start.is_evaluated,
      )
      stack.callback(log.close)
      loop = run.loop(record, log, lock, on_event, should_stop)
      for text in run.data.notices:
        loop.tell("notice", text=text)
      if self.summarize_config_fn is not None:
        self.summarize_config_fn(self.model_dir, log.summary_writer, loop.step)
      if run.is_done:
        status = "finished"
      elif run.start.is_stopped and is_same:
        status = "stopped"
      else:
        with _collecting_garbage_by_hand(self.gc_period):
          status = loop.run()
      run.checkpointer.wait()
      record.write(status=status, step=loop.step)
      return run.outcome(status, loop.trainer.train_state, was_over=False)

  def _open(self, stack: contextlib.ExitStack) -> OpenRun:
    """Reads what the run needs; `stack` gets what is to be closed."""
    seed_before, shuffle_seed_before = run_start.seeds(self.model_dir)
    seed = _seed(self.random_seed, seed_before)
    train_cfg = dataclasses.replace(
      self.train_dataset_cfg,
      seed=_seed(self.train_dataset_cfg.seed, shuffle_seed_before),
    )
    impl = "unsafe_rbg" if self.use_hardware_rng else None
    init_rng, train_rng = jax.random.split(jax.random.key(seed, impl=impl))
    data = run_data.read(
      self.model,
      self.partitioner,
      train_cfg,
      self.train_eval_dataset_cfg,
      self.infer_eval_dataset_cfg,
      self.eval_steps,
      functools.partial(
        self.inference_evaluator_cls,
        async_compute_metrics=self.concurrent_metrics,
      ),
      self.model_dir,
    )
    stack.callback(data.close)
    initializer = initialization.TrainStateInitializer(
      self.model.optimizer_def,
      self.model.get_initial_variables,
      data.batch_shapes,
      self.partitioner,
    )
    checkpointer = self.save_cfg.checkpointer_cls(
      train_state=initializer.train_state_shapes,
      partitioner=self.partitioner,
      checkpoints_dir=self.model_dir,
      keep=self.save_cfg.keep,
    )
    # Whatever ends the run, what it began to write is finished.
    stack.callback(checkpointer.close)
    state, start = run_start.restore(
      initializer,
      self.checkpoint_cfg.restore,
      checkpointer,
      init_rng,
      self.model_dir,
      data.task,
    )
    if self.model.optimizer_def is not None:
      self.model.optimizer_def.check_start(start.step)
    return OpenRun(
      plan=self,
      data=data,
      checkpointer=checkpointer,
      state=state,
      axes=initializer.train_state_axes,
      start=start,
      last_step=start.last_step(self.total_steps, self.relative_steps),
      seed=seed,
      train_rng=train_rng,
    )


def _seed(given: int | None, before: int | None) -> int:
  """Returns a seed, the same one in all processes.

  Args:
    given: What the run was told.
    before: What it had before it was stopped.

  Returns:
    The first of the two that is one, else one that is drawn.
  """
  if given is not None:
    return given
  drawn = secrets.randbits(31) if before is None else before
  return int(multihost.of_first_process(drawn))


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
  summarize_config_fn: Callable[..., None] | None = None,
  inference_evaluator_cls: Callable[..., seqio.Evaluator] = seqio.Evaluator,
  actions: trainer_lib.ActionMap | None = None,
  run_eval_before_training: bool = False,
  concurrent_metrics: bool = True,
  gc_period: int = 0,
  configuration: run_configuration.RunConfiguration | None = None,
  on_event: events.OnEvent = events.ignore,
  should_stop: events.ShouldStop = events.never,
) -> Outcome:
  """Trains, evaluates and saves, and goes on where it was stopped.

  It neither prints, nor exits, nor touches signals, and runs in any thread.
  The arguments are `Training`'s, and two more.

  Args:
    on_event: Called with all that happens.
    should_stop: Asked after every step of training and batch of evaluation;
      True saves the state and ends the run.

  Returns:
    How the run ended.

  Raises:
    ValueError: for a wrong configuration.
    FloatingPointError: if the loss is not a number.
  """
  plan = Training(
    model=model,
    train_dataset_cfg=train_dataset_cfg,
    train_eval_dataset_cfg=train_eval_dataset_cfg,
    infer_eval_dataset_cfg=infer_eval_dataset_cfg,
    checkpoint_cfg=checkpoint_cfg,
    partitioner=partitioner,
    trainer_cls=trainer_cls,
    model_dir=model_dir,
    total_steps=total_steps,
    eval_steps=eval_steps,
    eval_period=eval_period,
    relative_steps=relative_steps,
    stats_period=stats_period,
    random_seed=random_seed,
    use_hardware_rng=use_hardware_rng,
    summarize_config_fn=summarize_config_fn,
    inference_evaluator_cls=inference_evaluator_cls,
    actions=actions or {},
    run_eval_before_training=run_eval_before_training,
    concurrent_metrics=concurrent_metrics,
    gc_period=gc_period,
    configuration=configuration,
  )
  return plan.run(on_event, should_stop)


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


def _check_microbatches(
  batch_size: int, configuration: run_configuration.RunConfiguration | None
) -> None:
  """Refuses a number of microbatches that does not divide the batch.

  The trainer does too, but is made when data and model were read.
  """
  settings = configuration.settings if configuration else {}
  number = settings.get("t5x.Trainer.num_microbatches", "None")
  if number.isdigit() and (number == "0" or batch_size % int(number)):
    raise ValueError(
      f"Expected NUM_MICROBATCHES that divides BATCH_SIZE={batch_size}, got "
      f"{number}."
    )


@contextlib.contextmanager
def _collecting_garbage_by_hand(period: int) -> Iterator[None]:
  """Turns Python's own collections off, if there is a period for ours."""
  if not period or not gc.isenabled():
    yield
    return
  gc.disable()
  try:
    yield
  finally:
    gc.enable()
