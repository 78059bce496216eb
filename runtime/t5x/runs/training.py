"""Training as a function: `python -m t5x.train` is a command line for it."""

from collections.abc import Callable, Iterator
import contextlib
import gc
import os

import jax
import seqio

from t5x import checkpoints, models, partitioning, utils
from t5x import trainer as trainer_lib
from t5x.configuration import client, identity
from t5x.files import run_lock, safe_files
from t5x.input import datasets
from t5x.runs import (
  events,
  initialization,
  metric_lines,
  records,
  resume,
  run_data,
)
from t5x.runs.loop import Loop
from t5x.runs.plan import Outcome, Plan
from t5x.train_state import count_parameters, write_model_info

# Files that a run writes whole, of which a killed one may leave a part.
_OWN_FILES = frozenset(
  {
    "metrics.jsonl",
    "record.json",
    "config.gin",
    "configuration.json",
    "run.lock.json",
  }
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
  gc_period: int = 0,
  configuration: identity.RunConfiguration | None = None,
  on_event: events.OnEvent = events.ignore,
  should_stop: events.ShouldStop = events.never,
) -> Outcome:
  """Trains, evaluates and saves, and resumes a run that was stopped.

  It neither prints, nor exits, nor touches signals, and runs in any thread.
  `Plan` documents the arguments.

  Returns:
    The end of the run.

  Raises:
    ValueError: for a wrong configuration.
    FloatingPointError: if the loss is not a number.
  """
  return _run(Plan(**locals()))


def _run(plan: Plan) -> Outcome:
  """Runs a plan to its end; see `train`."""
  with contextlib.ExitStack() as stack:
    lock = stack.enter_context(
      resume.locked_folder(
        plan.model_dir, "MODEL_DIR", "train", plan.configuration
      )
    )
    records.note_killed(plan.model_dir)
    settings = resume.Settings.check(plan)
    initialization.check_base(plan.checkpoint_cfg.restore)
    loop = _open(plan, lock, stack)
    start, last_step = loop.start, loop.last_step
    _resume_actions(plan, start, loop.checkpointer)
    if status := settings.status_if_over(start, last_step, loop.is_done):
      return loop.outcome(status, was_over=True)
    is_stopped = start.is_stopped and settings.are_same(last_step)
    loop.record = stack.enter_context(_open_record(loop, settings))
    loop.log = records.MetricLog(
      plan.model_dir,
      start.step,
      start.evals,
      is_evaluated=loop.is_done or start.is_evaluated,
    )
    stack.callback(loop.log.close)
    for text in loop.data.notices:
      loop.report("notice", text=text)
    if plan.summarize_config_fn is not None:
      plan.summarize_config_fn(
        plan.model_dir, loop.log.summary_writer, start.step
      )
    if loop.is_done:
      status = "finished"
    elif is_stopped:
      status = "stopped"
    else:
      with _collecting_garbage_by_hand(plan.gc_period):
        status = loop.run()
    loop.checkpointer.wait()
    loop.record.write(status=status, step=loop.step)
    return loop.outcome(status)


def _open(
  plan: Plan, lock: run_lock.RunLock, stack: contextlib.ExitStack
) -> Loop:
  """Reads data and parameters; `stack` closes them."""
  seed, shuffle_seed = resume.seeds(plan)
  impl = "unsafe_rbg" if plan.use_hardware_rng else None
  init_rng, train_rng = jax.random.split(jax.random.key(seed, impl=impl))
  cfgs = run_data.bind(plan, shuffle_seed)
  initializer = initialization.TrainStateInitializer(
    plan.model.optimizer_def,
    plan.model.get_initial_variables,
    datasets.batch_shapes(cfgs["training"], plan.model.feature_converter_cls),
    plan.partitioner,
  )
  trainer = plan.trainer_cls(
    model=plan.model,
    train_state=initializer.train_state_shapes,
    partitioner=plan.partitioner,
    train_state_axes=initializer.train_state_axes,
    rng=train_rng,
  )
  # Before anything large is read.
  trainer.check_batch_size(plan.train_dataset_cfg.batch_size)
  data = run_data.read(plan, cfgs)
  stack.callback(data.close)
  checkpointer = plan.save_cfg.checkpointer_cls(
    train_state=initializer.train_state_shapes,
    partitioner=plan.partitioner,
    checkpoints_dir=plan.model_dir,
    keep=plan.save_cfg.keep,
  )
  # However the run ends, a checkpoint that was begun is finished.
  stack.callback(checkpointer.close)
  checkpointer.check_lock = lock.check
  trainer.train_state, start = resume.restore(
    plan, initializer, checkpointer, init_rng
  )
  if plan.model.optimizer_def is not None:
    plan.model.optimizer_def.check_start(start.step)
  return Loop(
    plan=plan,
    data=data,
    trainer=trainer,
    train_state_axes=initializer.train_state_axes,
    checkpointer=checkpointer,
    start=start,
    last_step=plan.last_step(start.first_step, start.step),
    seed=seed,
    lock=lock,
  )


def _resume_actions(
  plan: Plan, start: resume.Start, checkpointer: checkpoints.Checkpointer
) -> None:
  """Gives actions their history, and brings files to the restored step."""
  for mode in plan.actions or ():
    acted = start.acted.get(mode, [])
    history = start.evals if mode == "INFER_EVAL" else acted
    for action in plan.actions_after(mode):
      action.resume([x["metrics"] for x in history])
  for action in plan.actions_after("INFER_EVAL"):
    action.attach(start.evals, checkpointer)
  if jax.process_index() == 0:
    folder = plan.model_dir
    evaluations = os.path.join(folder, "inference_eval")
    metric_lines.keep_evaluations(evaluations, {e["step"] for e in start.evals})
    own_files = _OWN_FILES.union(*(x.run_files for x in client.clients()))
    safe_files.remove_leftovers(folder, own_files.__contains__)
    safe_files.remove_leftovers(
      evaluations, lambda name: name.endswith("-metrics.jsonl")
    )


def _open_record(loop: Loop, settings: resume.Settings) -> records.RunRecord:
  """Begins the run's record, and lists its parameters."""
  folder, start = loop.plan.model_dir, loop.start
  # The record of an earlier attempt, which this one resumes.
  earlier = records.read(folder) if start.seconds else None
  state = loop.trainer.train_state
  if jax.process_index() == 0:
    path = os.path.join(folder, "model-info.txt")
    write_model_info(path, state, loop.train_state_axes)
  return records.RunRecord(
    folder,
    "train",
    seconds_before=start.seconds,
    started=(earlier or {}).get("started"),
    lock=loop.lock,
    base=records.base_facts(start.base) if start.base else None,
    parameters=count_parameters(state),
    data=loop.data.facts,
    seed=loop.seed,
    steps={"first": start.first_step, "last": loop.last_step},
    evals=start.evals,
    best=loop.checkpointer.best(start.evals),
    **settings.write(start.step),
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
