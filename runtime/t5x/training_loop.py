"""The loop of a run: trains between evaluations and checkpoints."""

from collections.abc import Iterator, Mapping
import dataclasses
import gc
import math
import os
import signal
import sys
from typing import Any

import jax
from jax.experimental import multihost_utils
import jax.numpy as jnp
import tensorflow as tf
import tqdm

from t5x import checkpoints, records
from t5x import eval as eval_lib
from t5x import metrics as metrics_lib
from t5x import trainer as trainer_lib
from t5x.train_state import TrainState


class StopSignals:
  """Notes SIGTERM and SIGINT, so that the run can stop between two steps.

  A second one of the same kind ends it at once. Of several processes, all stop
  after the same step, which JAX's own handler of SIGTERM agrees on; Ctrl-C is
  left alone there.
  """

  def __init__(self):
    self.received: int | None = None
    self._answer = (-1, False)
    self._previous: dict[int, Any] = {}

  def __enter__(self) -> "StopSignals":
    if jax.process_count() == 1:
      self._previous = {
        number: signal.signal(number, self._note)
        for number in (signal.SIGTERM, signal.SIGINT)
      }
    return self

  def _note(self, number, frame) -> None:
    del frame
    self.received = number
    signal.signal(number, self._previous[number])
    # Not by print: the signal may have come in the middle of one.
    os.write(
      2,
      b"\nStopping after this step or evaluation; the same signal again stops "
      b"at once.\n",
    )

  def __exit__(self, *error) -> None:
    for number, handler in self._previous.items():
      signal.signal(number, handler)

  def stop_at(self, step: int) -> bool:
    """Whether to stop after this step; all processes agree on it."""
    if jax.process_count() == 1:
      return self.received is not None
    if self._answer[0] != step:
      self._answer = (step, multihost_utils.reached_preemption_sync_point(step))
    return self._answer[1]


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
    stop_signal: The signal that ended the run, if one did.
  """

  task: str
  trainer: trainer_lib.Trainer
  train_state_axes: TrainState
  batches: Iterator[Any]
  train_evals: Mapping[str, tf.data.Dataset]
  evaluator: eval_lib.InferenceEvaluator | None
  checkpointer: checkpoints.Checkpointer
  base: Mapping[str, Any] | None
  base_fingerprint: str | None
  record: records.RunRecord
  log: records.MetricLog
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
  stop_signal: int = signal.SIGTERM

  def run(self) -> str:
    """Runs to the end.

    Returns:
      "finished", "stopped" (by an action) or "interrupted" (by a signal).
    """
    with (
      StopSignals() as signals,
      tqdm.tqdm(
        total=self.last_step - self.first_step,
        initial=self.step - self.first_step,
        desc="train",
        unit="step",
        disable=jax.process_index() > 0,
        dynamic_ncols=True,
        mininterval=0.5 if sys.stderr.isatty() else 30,
      ) as progress,
    ):
      while True:
        stop = self._evaluate_if_due(progress)
        if self._is_due(self.save_period) or stop:
          self._save()
        if stop:
          return "stopped"
        if self.step >= self.last_step:
          return "finished"
        stop = self._train(progress, signals)
        if signals.stop_at(self.step) and self.step < self.last_step:
          self._save()
          self.stop_signal = signals.received or signal.SIGTERM
          return "interrupted"
        if stop:
          self._save()
          return "stopped"

  def _is_due(self, period: int) -> bool:
    done = self.step - self.first_step
    return done > 0 and (done % period == 0 or self.step == self.last_step)

  def _train(self, progress: tqdm.tqdm, signals: StopSignals) -> bool:
    """Trains to the next step at which something is due."""
    done = self.step - self.first_step
    num_steps = min(
      self.last_step - self.step,
      *(
        period - done % period
        for period in (self.eval_period, self.stats_period, self.save_period)
      ),
    )

    def on_step() -> bool:
      self.step += 1
      progress.update()
      if self.gc_period and self.step % self.gc_period == 0:
        gc.collect()
      return signals.stop_at(self.step)

    metrics = self.trainer.train_steps(self.batches, num_steps, on_step)
    self.log.write(self.step, "train", metrics)
    progress.set_postfix(
      loss=f"{metrics['loss']:.3f}", accuracy=f"{metrics['accuracy']:.3f}"
    )
    # The loss is of the parameters before the last update.
    is_finite = _is_finite(self.trainer.train_state.trainable)
    if not (math.isfinite(metrics["loss"]) and is_finite):
      saved = self.checkpointer.latest_step()
      raise FloatingPointError(
        f"After step {self.step}, the loss is {metrics['loss']}, and what "
        f"trains is {'' if is_finite else 'not '}finite. The last good "
        f"checkpoint is that of step {saved}."
      )
    return self._act("TRAIN", {"train": metrics})

  def _act(self, mode: str, metrics_by_task: metrics_lib.MetricsByTask) -> bool:
    results = [
      action.run(self.trainer.train_state, metrics_by_task)
      for action in self.actions.get(mode, ())
    ]
    return any(results)

  def _evaluate_if_due(self, progress: tqdm.tqdm) -> bool:
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
        }
      )
      for task, values in metrics.items():
        self.log.write(self.step, f"training_eval/{task}", values)
      stop = self._act("TRAIN_EVAL", metrics)
    if self.evaluator is not None:
      metrics = self.evaluator.evaluate(
        self.trainer.train_state, self.train_state_axes
      )
      for task, values in metrics.items():
        self.log.write(self.step, f"inference_eval/{task}", values)
        progress.write(
          f"step {self.step}: {records.format_metrics(task, values)}",
          file=sys.stderr,
        )
      self.evals.append(
        {
          "step": self.step,
          "metrics": metrics,
          "score": self.checkpointer.score(metrics),
        }
      )
      self.record.write(
        evals=self.evals, best=self.checkpointer.best(self.evals)
      )
      stop |= self._act("INFER_EVAL", metrics)
    return stop

  def _save(self) -> None:
    self.checkpointer.save_run(
      self.trainer.train_state,
      {
        "task": self.task,
        "first_step": self.first_step,
        "base": self.base,
        "base_fingerprint": self.base_fingerprint,
        "evals": self.evals,
        "seconds": self.record.seconds,
      },
    )
