"""Training as a function: `python -m t5x.train` is a command line for it."""

import contextlib
import gc
import os

import jax

from t5x import checkpoints, train_state
from t5x.files import run_lock, safe_files
from t5x.input import datasets, truncation
from t5x.runs import (
  initialization,
  metric_log,
  records,
  resume,
  run_data,
)
from t5x.runs import plan as plan_lib
from t5x.runs.loop import Loop
from t5x.runs.plan import Outcome, Plan


@plan_lib.with_arguments_of(Plan)
def train(plan: Plan) -> Outcome:
  """Trains, evaluates and saves, and resumes a run that was stopped.

  It does not print, exit or touch signals, and works in any thread. Its
  arguments are those of `Plan`.

  Returns:
    The end of the run.

  Raises:
    ValueError: for a wrong configuration.
    FloatingPointError: if the loss is not a number.
  """
  folder = plan.model_dir
  with contextlib.ExitStack() as stack:
    lock, record = stack.enter_context(
      records.locked_folder(folder, "MODEL_DIR", "train", plan.configuration)
    )
    earlier = resume.Earlier(plan, record)
    loop, base = _open(plan, lock, stack)
    info, step = loop.info, loop.step
    _resume_actions(loop)
    status, was_over = earlier.ending(
      step, info.is_stopped, loop.last_step, loop.is_done
    )
    if status and was_over:
      return loop.outcome(status, was_over=True)
    changes = earlier.write_settings(step)
    text, parameters = train_state.describe(
      loop.trainer.train_state, loop.trainer.train_state_axes
    )
    if jax.process_index() == 0:
      safe_files.write(os.path.join(folder, "model-info.txt"), text)
    loop.record = stack.enter_context(
      records.RunRecord(
        folder,
        "train",
        lock,
        base,
        plan.configuration,
        seconds_before=info.seconds,
        # The run started with the earlier attempt that this one resumes.
        **({"started": record["started"]} if info.seconds and record else {}),
        changes=changes,
        parameters=parameters,
        data=loop.data.facts,
        seed=info.seed,
        steps={"first": info.first_step, "last": loop.last_step},
        evals=info.evals,
        best=loop.checkpointer.best(info.evals),
      )
    )
    loop.log = metric_log.MetricLog(
      folder,
      # Without a checkpoint, all lines belong to a run that left nothing else.
      step if loop.checkpointer.all_steps() else -1,
      info.evals,
      is_evaluated=status is not None or info.is_evaluated(step),
    )
    stack.callback(loop.log.close)
    for text in loop.data.notices:
      loop.report("notice", text=text)
    if plan.summarize_config_fn is not None:
      plan.summarize_config_fn(folder, loop.log, step)
    if plan.gc_period and gc.isenabled():
      gc.disable()
      stack.callback(gc.enable)
    status = status or loop.run()
    loop.checkpointer.wait()
    loop.record.write(
      status=status, step=loop.step, step_seconds=loop.step_seconds
    )
    return loop.outcome(status)


def _open(
  plan: Plan, lock: run_lock.RunLock, stack: contextlib.ExitStack
) -> tuple[Loop, checkpoints.BaseCheckpoint | None]:
  """Reads data, parameters and the base model; `stack` closes them."""
  restore_cfg = plan.checkpoint_cfg.restore
  if restore_cfg is not None and restore_cfg.path is not None:
    # This comes before anything large is read.
    checkpoints.find_checkpoint(restore_cfg.path)
  cfgs = run_data.bind(plan)
  count_cuts = stack.enter_context(truncation.counted_meanwhile(cfgs))
  initializer = initialization.TrainStateInitializer(
    plan.model.optimizer_def,
    plan.model.get_initial_variables,
    datasets.batch_shapes(cfgs["training"], plan.model.feature_converter_cls),
    plan.partitioner,
  )
  checkpointer = plan.save_cfg.checkpointer_cls(
    train_state=initializer.train_state_shapes,
    partitioner=plan.partitioner,
    checkpoints_dir=plan.model_dir,
    keep=plan.save_cfg.keep,
  )
  # However the run ends, a started checkpoint is finished.
  stack.enter_context(checkpointer)
  checkpointer.check_lock = lock.check
  run_info = checkpointer.find_run()

  random_seed = resume.choose_seed(plan.random_seed, run_info, "seed")
  _, rng = plan.rngs(random_seed)
  trainer = plan.trainer_cls(
    model=plan.model,
    train_state=initializer.train_state_shapes,
    partitioner=plan.partitioner,
    train_state_axes=initializer.train_state_axes,
    rng=rng,
  )
  trainer.check_batch_size(plan.train_dataset_cfg.batch_size)
  shuffle_seed = resume.choose_seed(
    plan.train_dataset_cfg.seed, run_info, "shuffle_seed"
  )
  data = run_data.read(plan, cfgs, shuffle_seed, count_cuts)
  if data.evaluator is not None:
    stack.callback(data.evaluator.close)
  trainer.train_state, base, info = resume.restore(
    plan,
    initializer,
    checkpointer,
    run_info is None,
    (random_seed, shuffle_seed),
  )
  loop = Loop(plan, data, trainer, checkpointer, info, lock)
  if plan.model.optimizer_def is not None:
    plan.model.optimizer_def.check_start(loop.step)
  return loop, base


def _resume_actions(loop: Loop) -> None:
  """Gives actions their history, and brings files to the restored step."""
  plan, info = loop.plan, loop.info
  for mode in plan.actions or ():
    acted = info.evals if mode == "INFER_EVAL" else info.acted.get(mode, [])
    for action in plan.actions_after(mode):
      action.resume([x["metrics"] for x in acted])
  for action in plan.actions_after("INFER_EVAL"):
    action.attach(info.evals, loop.checkpointer)
  if jax.process_index() == 0:
    folder = plan.model_dir
    evaluations = os.path.join(folder, "inference_eval")
    metric_log.keep_evaluations(evaluations, {e["step"] for e in info.evals})
    safe_files.remove_leftovers(evaluations)
