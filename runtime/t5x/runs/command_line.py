"""Progress bars, signals and messages of a run in a terminal."""

from collections.abc import Callable
import contextlib
import os
import signal
import sys
from typing import Any

import jax
from jax.experimental import multihost_utils
import tqdm

from t5x import gin_utils
from t5x.runs import events, records


class StopSignals:
  """Signals after which a run stops at a place from which it can resume.

  A second signal of the same kind ends the run at once. Several processes all
  stop at the same step, on which JAX's own SIGTERM handler agrees; they do not
  catch Ctrl-C.
  """

  def __init__(self, *numbers: int):
    """Catches the given signals, by default SIGTERM and SIGINT."""
    self.received: int | None = None
    self._numbers = numbers or (signal.SIGTERM, signal.SIGINT)
    self._times_asked = 0
    self._is_agreed = False
    self._previous: dict[int, Any] = {}

  def __enter__(self) -> "StopSignals":
    if jax.process_count() == 1:
      # `signal` returns None for a handler that a C library has installed.
      self._previous = {
        number: signal.signal(number, self._note) or signal.SIG_DFL
        for number in self._numbers
      }
    return self

  def _note(self, number, frame) -> None:
    del frame
    self.received = number
    signal.signal(number, self._previous[number])
    # Not with print: the signal may have interrupted a print.
    os.write(
      2,
      b"\nStopping after this step, batch or chunk of examples; the same "
      b"signal again stops at once.\n",
    )

  def __exit__(self, *error) -> None:
    for number, handler in self._previous.items():
      signal.signal(number, handler)

  def should_stop(self) -> bool:
    """Returns whether to stop now; all processes call it equally often."""
    if jax.process_count() == 1:
      return self.received is not None
    # JAX reports the agreement only once, and a run asks again as it ends.
    if not self._is_agreed:
      self._times_asked += 1
      self._is_agreed = multihost_utils.reached_preemption_sync_point(
        self._times_asked
      )
    return self._is_agreed


class ProgressBar:
  """A progress bar on stderr, in the first process.

  Attributes:
    step: The step of the last event.
  """

  def __init__(self, description: str, unit: str):
    """Shows nothing before the first event.

    Args:
      description: Text in front of the bar.
      unit: The name of a step.
    """
    self.step = 0
    self._arguments = {
      "desc": description,
      "unit": unit,
      "disable": jax.process_index() > 0,
      "dynamic_ncols": True,
      "mininterval": 0.5 if sys.stderr.isatty() else 30,
    }
    self._bar: tqdm.tqdm | None = None
    self._evaluation: tqdm.tqdm | None = None

  def close(self) -> None:
    """Ends the bar and leaves it on the screen."""
    self._end_evaluation()
    if self._bar is not None:
      self._bar.close()

  def _end_evaluation(self) -> None:
    if self._evaluation is not None:
      self._evaluation.close()
    self._evaluation = None

  def __call__(self, event: events.Event) -> None:
    """Shows an event; an `events.OnEvent`."""
    self.step = event.step
    done = event.step - event.first_step
    if event.kind == "start":
      self.close()
      self._bar = tqdm.tqdm(
        total=event.last_step - event.first_step,
        initial=done,
        **self._arguments,
      )
    elif event.kind == "notice":
      self._write(event.text)
    elif event.kind == "step" and self._bar is not None:
      self._bar.update(done - self._bar.n)
    elif event.kind == "train" and self._bar is not None:
      metrics = event.metrics["train"]
      self._bar.set_postfix(
        loss=f"{metrics['loss']:.3f}", accuracy=f"{metrics['accuracy']:.3f}"
      )
    elif event.kind == "evaluating":
      done, total = event.examples
      if self._evaluation is None:
        # A second, temporary bar; the first one shows the whole run.
        own = {"desc": "  evaluation", "unit": "example", "leave": False}
        self._evaluation = tqdm.tqdm(total=total, **self._arguments | own)
      self._evaluation.update(done - self._evaluation.n)
    elif event.kind == "eval":
      self._end_evaluation()
      for task, values in event.metrics.items():
        text = records.format_metrics(task, values)
        self._write(f"step {event.step}: {text}")

  def _write(self, text: str) -> None:
    if jax.process_index() == 0:
      tqdm.tqdm.write(text, file=sys.stderr)


def run(
  function: Callable[..., Any],
  program: str,
  unit: str,
  show: Callable[[Any], None],
) -> None:
  """Runs a program until its end or a signal, and shows progress and result.

  Args:
    function: The program's function, with its other arguments bound.
    program: "train", "eval" or "infer".
    unit: The name of a step.
    show: Called with the result, in the first process.

  Raises:
    SystemExit: if a signal stopped it, with the status that a shell expects:
      128 + the signal's number.
  """
  result = None
  with (
    StopSignals() as signals,
    contextlib.closing(ProgressBar(program, unit)) as progress,
    contextlib.suppress(events.CancelledError),
  ):
    result = function(
      configuration=gin_utils.configuration(program),
      on_event=progress,
      should_stop=signals.should_stop,
    )
  # Training that was stopped has a result too.
  is_stopped = result is None or (
    getattr(result, "status", "") == "interrupted"
  )
  if jax.process_index() == 0:
    if is_stopped:
      print(
        f"Stopped at {unit} {progress.step}; the same command completes it.",
        file=sys.stderr,
      )
    else:
      show(result)
  if is_stopped:
    sys.exit(128 + (signals.received or signal.SIGTERM))
