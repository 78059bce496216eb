"""The loop of a run, which trains between evaluations and checkpoints."""

import contextlib
import dataclasses
import gc
import math
import statistics
from typing import Any

from absl import logging
import jax
import jax.numpy as jnp

from t5x import checkpoints
from t5x import metrics as metrics_lib
from t5x import trainer as trainer_lib
from t5x.files import run_lock
from t5x.runs import events, metric_log, records, resume, run_data
from t5x.runs.plan import Outcome, Plan


@jax.jit
def _is_finite(tree: Any) -> jax.Array:
  """Returns whether every number of a tree is finite."""
  return jnp.all(
    jnp.array([jnp.isfinite(x).all() for x in jax.tree.leaves(tree)])
  )


@dataclasses.dataclass
class Loop:
  """A run that trains between evaluations and checkpoints until its end.

  Attributes:
    plan: The plan of the run.
    data: Its examples.
    trainer: Runs the steps, and holds the state.
    checkpointer: Saves the state, and ranks evaluations.
    info: The facts of the run, to which the loop adds its evaluations; periods
      count from its first step.
    lock: The lock of the folder, checked before anything is written.
    record: The record of the run, set before it runs.
    log: Its metrics, set before it runs.
    step: The step of the state, counted from pretraining step 0.
    last_step: The step to end with.
  """

  plan: Plan
  data: run_data.RunData
  trainer: trainer_lib.Trainer
  checkpointer: checkpoints.Checkpointer
  info: resume.RunInfo
  lock: run_lock.RunLock
  record: records.RunRecord = dataclasses.field(init=False)
  log: metric_log.MetricLog = dataclasses.field(init=False)
  step: int = dataclasses.field(init=False)
  last_step: int = dataclasses.field(init=False)
  _is_interrupted: bool = dataclasses.field(default=False, init=False)
  _rates: list[float] = dataclasses.field(default_factory=list, init=False)

  def __post_init__(self):
    plan = self.plan
    self.step = int(self.trainer.train_state.step)
    self.last_step = plan.last_step(self.info.first_step, self.step)
    self._save_period = plan.save_cfg.period or self.last_step
    self._periods = (
      plan.eval_period,
      plan.stats_period or plan.eval_period,
      self._save_period,
    )
    done = self.step - self.info.first_step
    self._batches = self.data.batches.skip(done).as_numpy_iterator()

  @property
  def is_done(self) -> bool:
    """True if the last step was done and evaluated before the loop starts."""
    return self.step == self.last_step and (
      self.data.evaluator is None or self.info.is_evaluated(self.step)
    )

  @property
  def step_seconds(self) -> float | None:
    """The median seconds of a step; None before the first."""
    return 1 / statistics.median(self._rates) if self._rates else None

  def outcome(self, status: str, was_over: bool = False) -> Outcome:
    """Returns the end of the run."""
    return Outcome(
      model_dir=self.plan.model_dir,
      status=status,
      step=self.step,
      evals=self.info.evals,
      best=self.checkpointer.best(self.info.evals),
      was_over=was_over,
      train_state=self.trainer.train_state,
    )

  def run(self) -> str:
    """Runs to the end.

    Returns:
      "finished", "stopped" (by an action) or "interrupted" (by the caller).
    """
    self.report("start")
    if self.info.is_stopped:
      self._save()  # Not as stopped: if it is killed soon, it can resume.
    while True:
      try:
        stop = self._evaluate_if_due()
      except events.CancelledError:
        if self.step > self.info.first_step:
          self._save()
        return "interrupted"
      except Exception:
        # The run may resume with another evaluation. Not with several
        # processes: some may not have failed, and saving waits for all.
        if jax.process_count() == 1 and self.step not in (
          self.info.first_step,
          self._latest_saved(),
        ):
          with contextlib.suppress(OSError):
            self._save()
            self.checkpointer.wait()
        raise
      if self._is_due(self._save_period) or stop:
        self._save(stop)
      if stop:
        return "stopped"
      if self.step >= self.last_step:
        return "finished"
      stop = self._train()
      # Called again, because the metrics of the steps may have taken a while.
      self._is_interrupted |= self.plan.should_stop()
      if stop:
        self._save(stop)
        return "stopped"
      if self._is_interrupted and self.step < self.last_step:
        self._save()
        return "interrupted"

  def report(self, kind: events.Kind, **facts: Any) -> None:
    """Tells the caller of the run about an event."""
    self.plan.on_event(
      events.Event(
        kind, self.step, self.info.first_step, self.last_step, **facts
      )
    )

  def _is_due(self, period: int) -> bool:
    done = self.step - self.info.first_step
    return done > 0 and (done % period == 0 or self.step == self.last_step)

  def _train(self) -> bool:
    """Trains to the next step at which something is due."""
    before = self.step
    done = before - self.info.first_step
    num_steps = min(
      self.last_step - self.step,
      *(period - done % period for period in self._periods),
    )

    def on_step() -> bool:
      self.step += 1
      self.report("step")
      if self.plan.gc_period and self.step % self.plan.gc_period == 0:
        gc.collect()
      self._is_interrupted = self.plan.should_stop()
      return self._is_interrupted

    metrics = self.trainer.train_steps(self._batches, num_steps, on_step)
    if rate := metrics.get("timing/steps_per_second"):
      self._rates.append(rate)
    by_task = {"train": metrics}
    self._log("", by_task)
    self.report("train", metrics=by_task)
    # The loss belongs to the parameters before the last update.
    is_finite = _is_finite(self.trainer.train_state.trainable)
    if not (math.isfinite(metrics["loss"]) and is_finite):
      saved = self._latest_saved()
      raise FloatingPointError(
        f"After step {self.step}, the loss is {metrics['loss']}, and the "
        f"trainable parameters are {'' if is_finite else 'not '}finite. "
        + (
          "No checkpoint was saved."
          if saved is None
          else f"The last good checkpoint is that of step {saved}."
        )
      )
    if self.step - before < num_steps:
      return False  # Actions run once a resumed run has done the other steps.
    return self._act("TRAIN", by_task)

  def _log(
    self, prefix: str, metrics_by_task: metrics_lib.MetricsByTask
  ) -> None:
    """Logs metrics, unless another run may have taken the folder meanwhile."""
    self.lock.check()
    for task, values in metrics_by_task.items():
      self.log.write(self.step, f"{prefix}{task}", values)

  def _act(self, mode: str, metrics_by_task: metrics_lib.MetricsByTask) -> bool:
    state, actions = self.trainer.train_state, self.plan.actions_after(mode)
    if actions and mode != "INFER_EVAL":
      acted = {"step": self.step, "metrics": metrics_by_task}
      self.info.acted.setdefault(mode, []).append(acted)
    # A list, so that all actions run even if one stops the run.
    return any([action.run(state, metrics_by_task) for action in actions])

  def _evaluate_if_due(self) -> bool:
    """Evaluates, unless that was done before an interruption."""
    at_start = (
      self.plan.run_eval_before_training and self.step == self.info.first_step
    )
    if not (self._is_due(self.plan.eval_period) or at_start):
      return False
    if self.info.is_evaluated(self.step):
      return False
    stop = False
    if self.data.train_evals:
      metrics = self.trainer.eval(
        {k: x.as_numpy_iterator() for k, x in self.data.train_evals.items()},
        self._check_stop,
      )
      self._log("training_eval/", metrics)
      stop = self._act("TRAIN_EVAL", metrics)
    if self.data.evaluator is not None:
      done, total = 0, sum(self.data.evaluator.counts.values())

      def after_batch(examples: int) -> None:
        nonlocal done
        done += examples
        self.report("evaluating", examples=(done, total))
        self._check_stop(examples)

      metrics = self.data.evaluator.evaluate(
        self.trainer.train_state, self.trainer.train_state_axes, after_batch
      )
      self._log("inference_eval/", metrics)
      score = self.checkpointer.score(metrics)
      self.report("eval", metrics=metrics, score=score)
      evaluated = {"step": self.step, "metrics": metrics, "score": score}
      # The record first: if it refuses the evaluation, no file has it.
      evals = [*self.info.evals, evaluated]
      self.record.write(evals=evals, best=self.checkpointer.best(evals))
      self.info.evals.append(evaluated)
      stop |= self._act("INFER_EVAL", metrics)
    return stop

  def _check_stop(self, examples: int) -> None:
    """Ends an evaluation if the caller stops the run, which may repeat it."""
    del examples
    if self.plan.should_stop():
      raise events.CancelledError(f"Stopped at step {self.step}.")

  def _latest_saved(self) -> int | None:
    """Returns the last checkpoint's step, even if a write fails."""
    try:
      self.checkpointer.wait()
    except OSError as error:
      logging.warning("A checkpoint could not be written: %s", error)
    return max(self.checkpointer.all_steps(), default=None)

  def _save(self, is_stopped: bool = False) -> None:
    self.lock.check()
    self.report("checkpoint")
    info = dataclasses.replace(
      self.info, is_stopped=is_stopped, seconds=self.record.seconds
    )
    self.checkpointer.save_run(
      self.trainer.train_state, dataclasses.asdict(info)
    )
