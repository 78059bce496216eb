"""Training as a function: `python -m t5x.train` is a command line for it."""

from collections.abc import Callable, Iterator, Mapping
import contextlib
import dataclasses
import functools
import gc
import os
from typing import Any

import jax
import seqio

from t5x import (
  checkpoints,
  continuation,
  events,
  initialization,
  metric_lines,
  models,
  multihost,
  partitioning,
  records,
  run_configuration,
  run_data,
  run_lock,
  run_start,
  safe_files,
  training_loop,
  utils,
)
from t5x import trainer as trainer_lib
from t5x.train_state import TrainState, count_parameters, write_model_info

# What a run writes whole, of which a killed one may leave a part.
_OWN_FILES = frozenset(
  {
    "metrics.jsonl",
    "prompt.safetensors",
    "record.json",
    "configuration.json",
    "run.lock.json",
  }
)


@dataclasses.dataclass(frozen=True)
class Outcome:
  """How a run ended.

  Attributes:
    model_dir: The run's folder.
    status: "finished"; "stopped", by an action; or "interrupted", because the
      caller wanted it to stop: called again, it goes on.
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
    use_orbax: Must be True.
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
  use_orbax: bool
  gc_period: int
  configuration: run_configuration.RunConfiguration | None = None

  def __post_init__(self):
    if not self.use_orbax:
      raise ValueError(
        "Checkpoints are written by Orbax: use_orbax must be True."
      )
    _check_periods(
      eval_period=self.eval_period,
      checkpoint_period=self.save_cfg.period,
      stats_period=self.stats_period,
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
    records.make_folder(self.model_dir, "MODEL_DIR", "train")
    with contextlib.ExitStack() as stack:
      lock = run_lock.RunLock(self.model_dir, "MODEL_DIR")
      stack.enter_context(lock)
      known = continuation.check(self.model_dir, self.configuration)
      run = self._open(stack)
      run.resume()
      status = run_start.status_if_over(
        self.model_dir, run.is_done, not known.differences
      )
      if status is not None:
        known.check_over(status, run.start.step)
        return run.outcome(status, run.state, was_over=True)
      record = stack.enter_context(run.record(known))
      log = records.MetricLog(self.model_dir, run.start.step, run.start.evals)
      stack.callback(log.close)
      loop = run.loop(record, log, lock, on_event, should_stop)
      for text in run.data.notices:
        loop.tell("notice", text=text)
      if self.summarize_config_fn is not None:
        self.summarize_config_fn(self.model_dir, log.summary_writer, loop.step)
      if run.is_done:
        status = "finished"
      else:
        with _collecting_garbage_by_hand(self.gc_period):
          status = loop.run()
      run.checkpointer.wait()
      record.write(status=status, step=loop.step)
      return run.outcome(status, loop.trainer.train_state, was_over=False)

  def _open(self, stack: contextlib.ExitStack) -> "_OpenRun":
    """Reads what the run needs; `stack` gets what is to be closed."""
    seed = self.random_seed
    if seed is None:
      seed = int.from_bytes(os.urandom(4), "little") >> 1
      seed = int(multihost.of_first_process(seed))
    impl = "unsafe_rbg" if self.use_hardware_rng else None
    init_rng, train_rng = jax.random.split(jax.random.key(seed, impl=impl))
    data = run_data.read(
      self.model,
      self.partitioner,
      self.train_dataset_cfg,
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
    return _OpenRun(
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


@dataclasses.dataclass
class _OpenRun:
  """A run that is ready to begin, or to go on.

  Attributes:
    plan: What was planned.
    data: The examples.
    checkpointer: Saves it.
    state: The first state, until the loop takes it.
    axes: Shardings of the state.
    start: Where it begins.
    last_step: The step that it ends with.
    seed: Of initialisers and dropout.
    train_rng: PRNG key of dropout.
  """

  plan: Training
  data: run_data.RunData
  checkpointer: checkpoints.Checkpointer
  state: TrainState
  axes: TrainState
  start: run_start.Start
  last_step: int
  seed: int
  train_rng: jax.Array

  @property
  def is_done(self) -> bool:
    """Whether the last step was done, and evaluated."""
    return self.start.step == self.last_step and (
      self.data.evaluator is None or self.start.is_evaluated
    )

  def outcome(
    self, status: str, train_state: TrainState, was_over: bool
  ) -> Outcome:
    return Outcome(
      model_dir=self.plan.model_dir,
      status=status,
      step=int(train_state.step),
      first_step=self.start.first_step,
      last_step=self.last_step,
      # The loop adds its own to them.
      evals=self.start.evals,
      best=self.checkpointer.best(self.start.evals),
      was_over=was_over,
      train_state=train_state,
    )

  def record(self, known: continuation.Continuation) -> records.RunRecord:
    """Begins the run's record."""
    folder, state = self.plan.model_dir, self.state
    write_model_info(os.path.join(folder, "model-info.txt"), state, self.axes)
    return records.RunRecord(
      folder,
      "train",
      seconds_before=self.start.seconds,
      base=records.base_facts(self.start.base) if self.start.base else None,
      parameters=count_parameters(state),
      data=self.data.facts,
      seed=self.seed,
      steps={"first": self.start.first_step, "last": self.last_step},
      evals=self.start.evals,
      best=self.checkpointer.best(self.start.evals),
      **known.begin(self.start.step),
    )

  def resume(self) -> None:
    """Tells actions what was done, and brings files to the restored step."""
    for action in self.plan.actions.get("INFER_EVAL", ()):
      action.resume([e["metrics"] for e in self.start.evals])
      action.check_files(self.start.evals, self.checkpointer)
    if jax.process_index() == 0:
      folder = self.plan.model_dir
      metric_lines.keep_evaluations(
        os.path.join(folder, "inference_eval"),
        {e["step"] for e in self.start.evals},
      )
      safe_files.remove_leftovers(folder, _OWN_FILES.__contains__)

  def loop(
    self,
    record: records.RunRecord,
    log: records.MetricLog,
    lock: run_lock.RunLock,
    on_event: events.OnEvent,
    should_stop: events.ShouldStop,
  ) -> training_loop.Loop:
    """Makes the loop, which takes the state: it is donated step by step."""
    plan, start = self.plan, self.start
    state = self.state
    del self.state
    batches = self.data.batches.skip(start.step - start.first_step)
    return training_loop.Loop(
      task=self.data.task,
      trainer=plan.trainer_cls(
        model=plan.model,
        train_state=state,
        partitioner=plan.partitioner,
        train_state_axes=self.axes,
        rng=self.train_rng,
      ),
      train_state_axes=self.axes,
      batches=batches.as_numpy_iterator(),
      train_evals=self.data.train_evals,
      evaluator=self.data.evaluator,
      checkpointer=self.checkpointer,
      base=start.base_identity,
      base_fingerprint=start.base_fingerprint,
      record=record,
      log=log,
      lock=lock,
      actions=plan.actions,
      step=start.step,
      first_step=start.first_step,
      last_step=self.last_step,
      eval_period=plan.eval_period,
      stats_period=plan.stats_period or plan.eval_period,
      save_period=plan.save_cfg.period or self.last_step,
      eval_first=plan.run_eval_before_training,
      gc_period=plan.gc_period,
      evals=start.evals,
      on_event=on_event,
      should_stop=should_stop,
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
  summarize_config_fn: Callable[..., None] | None = None,
  inference_evaluator_cls: Callable[..., seqio.Evaluator] = seqio.Evaluator,
  actions: trainer_lib.ActionMap | None = None,
  run_eval_before_training: bool = False,
  concurrent_metrics: bool = True,
  use_orbax: bool = True,
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
    should_stop: Asked after every step; True saves the state and ends the run.

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
    use_orbax=use_orbax,
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
