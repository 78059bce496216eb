"""Events that a run reports to its caller, and ways to stop it."""

from collections.abc import Callable, Iterable, Mapping
import dataclasses
from typing import Any, Literal

Kind = Literal[
  "start", "notice", "step", "train", "evaluating", "eval", "checkpoint"
]


@dataclasses.dataclass(frozen=True)
class Event:
  """An event of a run.

  Attributes:
    kind: "start", before the first step; "notice", with a text for the user;
      "step", after each; "train", with the metrics of the steps since the last
      such event; "evaluating", after each batch of an inference evaluation;
      "eval", with its metrics; "checkpoint", before one is written.
    step: The state's step, counted from pretraining step 0. In an evaluation or
      inference, the number of finished examples.
    first_step: The step that the run began with.
    last_step: The step that it ends with.
    metrics: Task -> metric -> value; for "train" the only task is "train".
    score: The score by which checkpoints are compared, if they are.
    text: A sentence for the user.
    examples: For "evaluating", the numbers of finished and of all examples.
  """

  kind: Kind
  step: int
  first_step: int
  last_step: int
  metrics: Mapping[str, Mapping[str, float]] = dataclasses.field(
    default_factory=dict
  )
  score: float | None = None
  text: str = ""
  examples: tuple[int, int] = (0, 0)


# Called in the thread of the run; an exception ends the run.
OnEvent = Callable[[Event], None]
# Called after every step, after its event, and after every batch of an
# evaluation. All processes must return the same answers.
ShouldStop = Callable[[], bool]


def ignore(event: Event) -> None:
  """Does nothing."""
  del event


def never() -> bool:
  """Never stops a run."""
  return False


class CancelledError(Exception):
  """Raised when the caller stops a run that has nothing to return."""


@dataclasses.dataclass
class Progress:
  """A count of the examples that an evaluation or inference has finished.

  Attributes:
    plan: A plan. After every batch, its `on_event` gets a "step", and its
      `should_stop` is called.
    total: The number of all examples.
    notices: Sentences for the user.
    done: The number of finished examples.
  """

  plan: Any
  total: int
  notices: Iterable[str] = ()
  done: int = 0

  def begin(self, done: int = 0) -> None:
    """Reports the notices, and a start after `done` examples."""
    self.done = done
    self._report("start")
    for text in self.notices:
      self._report("notice", text)

  def _report(self, kind: Kind, text: str = "") -> None:
    self.plan.on_event(Event(kind, self.done, 0, self.total, text=text))

  def advance(self, examples: int) -> None:
    """Counts more examples.

    Raises:
      CancelledError: if the caller wants to stop.
    """
    self.done += examples
    self._report("step")
    if self.plan.should_stop():
      raise CancelledError(
        f"Stopped after {self.done} of {self.total} examples."
      )
