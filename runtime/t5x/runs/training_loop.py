"""The loop of a run: trains between evaluations and checkpoints."""

from collections.abc import Iterator, Mapping
import contextlib
import dataclasses
import gc
import math
from typing import Any

from absl import logging
import jax
import jax.numpy as jnp
import tensorflow as tf

from t5x import checkpoints
from t5x import metrics as metrics_lib
from t5x import trainer as trainer_lib
from t5x.files import run_lock
from t5x.runs import evaluation, events, records
from t5x.train_state import TrainState


@jax.jit
def _is_finite(tree: Any) -> jax.Array:
  """Whether every number of a tree is one."""
  return jnp.all(
    jnp.array([jnp.isfinite(x).all() for x in jax.tree.leaves(tree)])
  )


@dataclasses.dataclass
class Loop:
  """Trains between evaluations and checkpoints until the end.

  Attributes:
    task: Name of the task or mixture.
    step: Of the state, counted from pretraining step 0.
    first_step: The step that the run began with; periods count from it.
    last_step: The step to end with.
    base: Path and fingerprint of the base checkpoint, if there is one.
    base_fingerprint: Of what is frozen, if anything is.
    evals: The inference evaluations so far: step, metrics, score.
    acted: Of the other modes, what their actions ran on so far: step, metrics.
    on_event: Called with all that happens.
    should_stop: Asked after every step of training and batch of evaluation.
  """

  task: str
  trainer: trainer_lib.Trainer
  train_state_axes: TrainState
  batches: Iterator[Any]
  train_evals: Mapping[str, tf.data.Dataset]
  evaluator: evaluation.InferenceEvaluator | None
  checkpointer: checkpoints.Checkpointer
  base: Mapping[str, Any] | None
  base_fingerprint: str | None
  record: records.RunRecord
  log: records.MetricLog
  lock: run_lock.RunLock
  actions: trainer_lib.ActionMap
  step: int
  first_step: int
  last_step: int
  eval_period: int
  stats_period: int
  save_period: int
  eval_first: bool
  gc_period: int
  evals: list[dict[str, Any]]
  acted: dict[str, list[dict[str, Any]]]
  on_event: events.OnEvent
  should_stop: events.ShouldStop
  _is_interrupted: bool = dataclasses.field(default=False, init=False)

  def run(self) -> str:
    """Runs to the end.

    Returns:
      "finished", "stopped" (by an action) or "interrupted" (by the caller).
    """
    self.tell("start")
    while True:
      try:
        stop = self._evaluate_if_due()
      except events.CancelledError:
        if self.step > self.first_step:
          self._save()
        return "interrupted"
      except Exception:
        self._save_before_failing()
        raise
      if self._is_due(self.save_period) or stop:
        self._save(stop)
      if stop:
        return "stopped"
      if self.step >= self.last_step:
        return "finished"
      stop = self._train()
      # Asked again: the metrics of the steps may have taken a while.
      self._is_interrupted |= self.should_stop()
      if stop:
        self._save(stop)
        return "stopped"
      if self._is_interrupted and self.step < self.last_step:
        self._save()
        return "interrupted"

  def tell(self, kind: events.Kind, **facts: Any) -> None:
    """Tells the caller of the run what happened."""
    self.on_event(
      events.Event(kind, self.step, self.first_step, self.last_step, **facts)
    )

  def _is_due(self, period: int) -> bool:
    done = self.step - self.first_step
    return done > 0 and (done % period == 0 or self.step == self.last_step)

  def _train(self) -> bool:
    """Trains to the next step at which something is due."""
    before = self.step
    done = before - self.first_step
    num_steps = min(
      self.last_step - self.step,
      *(
        period - done % period
        for period in (self.eval_period, self.stats_period, self.save_period)
      ),
    )

    def on_step() -> bool:
      self.step += 1
      self.tell("step")
      if self.gc_period and self.step % self.gc_period == 0:
        gc.collect()
      self._is_interrupted = self.should_stop()
      return self._is_interrupted

    metrics = self.trainer.train_steps(self.batches, num_steps, on_step)
    self.lock.check()
    self.log.write(self.step, "train", metrics)
    self.tell("train", metrics={"train": metrics})
    # The loss is of the parameters before the last update.
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
      return False  # The rest of the steps is acted on after the interruption.
    return self._act("TRAIN", {"train": metrics})

  def _act(self, mode: str, metrics_by_task: metrics_lib.MetricsByTask) -> bool:
    actions = self.actions.get(mode, ())
    if actions and mode != "INFER_EVAL":
      acted = {"step": self.step, "metrics": metrics_by_task}
      self.acted.setdefault(mode, []).append(acted)
    results = [
      action.run(self.trainer.train_state, metrics_by_task)
      for action in actions
    ]
    return any(results)

  def _evaluate_if_due(self) -> bool:
    """Evaluates, unless that was done before an interruption."""
    at_start = self.eval_first and self.step == self.first_step
    if not (self._is_due(self.eval_period) or at_start):
      return False
    if self.evals and self.evals[-1]["step"] == self.step:
      return False
    stop = False
    if self.train_evals:
      metrics = self.trainer.eval(
        {
          task: dataset.as_numpy_iterator()
          for task, dataset in self.train_evals.items()
        },
        self._check_whether_on,
      )
      self.lock.check()
      for task, values in metrics.items():
        self.log.write(self.step, f"training_eval/{task}", values)
      stop = self._act("TRAIN_EVAL", metrics)
    if self.evaluator is not None:
      metrics = self.evaluator.evaluate(
        self.trainer.train_state, self.train_state_axes, self._check_whether_on
      )
      self.lock.check()
      for task, values in metrics.items():
        self.log.write(self.step, f"inference_eval/{task}", values)
      score = self.checkpointer.score(metrics)
      self.tell("eval", metrics=metrics, score=score)
      evaluated = {"step": self.step, "metrics": metrics, "score": score}
      # If the record refuses it, the record of the failed run lacks it.
      evals = [*self.evals, evaluated]
      self.record.write(evals=evals, best=self.checkpointer.best(evals))
      self.evals.append(evaluated)
      stop |= self._act("INFER_EVAL", metrics)
    return stop

  def _check_whether_on(self, examples: int) -> None:
    """Ends an evaluation that there may be no time for: it is done again."""
    del examples
    if self.should_stop():
      raise events.CancelledError(f"It was stopped at step {self.step}.")

  def _latest_saved(self) -> int | None:
    """Returns the last checkpoint's step; asked by what has another error."""
    try:
      self.checkpointer.wait()
    except OSError as error:
      logging.warning("A checkpoint could not be written: %s", error)
    return max(self.checkpointer.all_steps(), default=None)

  def _save_before_failing(self) -> None:
    """Saves what no evaluation followed: the run may be told another one.

    Not of several processes, some of which may not have failed.
    """
    is_new = self.step not in (self.first_step, self._latest_saved())
    if is_new and jax.process_count() == 1:
      with contextlib.suppress(OSError):
        self._save()
        self.checkpointer.wait()

  def _save(self, is_stopped: bool = False) -> None:
    self.lock.check()
    self.tell("checkpoint")
    self.checkpointer.save_run(
      self.trainer.train_state,
      {
        "task": self.task,
        "first_step": self.first_step,
        "base": self.base,
        "base_fingerprint": self.base_fingerprint,
        "evals": self.evals,
        "acted": self.acted,
        "is_stopped": is_stopped,
        "seconds": self.record.seconds,
        "seed": self.record.fields["seed"],
        "shuffle_seed": self.record.fields["data"]["shuffle_seed"],
      },
    )
