"""A training run that is ready to begin, or to go on, and how it ended."""

from collections.abc import Mapping
import dataclasses
import os
from typing import TYPE_CHECKING, Any

import jax

from t5x import checkpoints
from t5x.configuration import client
from t5x.files import run_lock, safe_files
from t5x.runs import (
  continuation,
  events,
  metric_lines,
  records,
  run_data,
  run_start,
  training_loop,
)
from t5x.train_state import TrainState, count_parameters, write_model_info

if TYPE_CHECKING:
  from t5x.runs import training

# What a run writes whole, of which a killed one may leave a part.
_OWN_FILES = frozenset(
  {
    "metrics.jsonl",
    "record.json",
    "config.gin",
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


@dataclasses.dataclass
class OpenRun:
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

  plan: "training.Training"
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

  def record(
    self, known: continuation.Continuation, lock: run_lock.RunLock
  ) -> records.RunRecord:
    """Begins the run's record."""
    folder, state = self.plan.model_dir, self.state
    # Of an earlier attempt, which this one goes on with.
    earlier = records.read(folder) if self.start.seconds else None
    if jax.process_index() == 0:
      path = os.path.join(folder, "model-info.txt")
      write_model_info(path, state, self.axes)
    return records.RunRecord(
      folder,
      "train",
      seconds_before=self.start.seconds,
      started=(earlier or {}).get("started"),
      lock=lock,
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
    for mode, actions in self.plan.actions.items():
      acted = self.start.acted.get(mode, [])
      history = self.start.evals if mode == "INFER_EVAL" else acted
      for action in actions:
        action.resume([x["metrics"] for x in history])
    for action in self.plan.actions.get("INFER_EVAL", ()):
      action.check_files(self.start.evals, self.checkpointer)
    if jax.process_index() == 0:
      folder = self.plan.model_dir
      evaluations = os.path.join(folder, "inference_eval")
      metric_lines.keep_evaluations(
        evaluations, {e["step"] for e in self.start.evals}
      )
      registered = (x.run_files for x in client.clients())
      whole = _OWN_FILES.union(*registered)
      safe_files.remove_leftovers(folder, whole.__contains__)
      safe_files.remove_leftovers(
        evaluations, lambda name: name.endswith("-metrics.jsonl")
      )

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
      acted=start.acted,
      on_event=on_event,
      should_stop=should_stop,
    )
