"""What a run tells the program that called it."""

from collections.abc import Callable, Iterable, Mapping
import dataclasses
from typing import Literal

Kind = Literal["start", "notice", "step", "train", "eval", "checkpoint"]


@dataclasses.dataclass(frozen=True)
class Event:
  """Something that happened in a run.

  Attributes:
    kind: "start", before the first step; "notice", with a text for the user;
      "step", after each; "train", with the metrics of the steps since the last;
      "eval", with those of an inference evaluation; "checkpoint", when one
      begins to be written.
    step: Of the state, counted from pretraining step 0. In an evaluation or
      inference, the examples that are done.
    first_step: The step that the run began with.
    last_step: The step that it ends with.
    metrics: Task -> metric -> value; for "train" the one task is "train".
    score: What the checkpoints of evaluations are compared by, if anything is.
    text: For people.
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


# Called in the thread of the run; what it raises ends the run.
OnEvent = Callable[[Event], None]
# Asked after every step, once the step's event was told, and after every batch
# of an evaluation. Of several processes, all must give the same answers.
ShouldStop = Callable[[], bool]


def ignore(event: Event) -> None:
  """Does nothing."""
  del event


def never() -> bool:
  """Lets a run go on to its end."""
  return False


class CancelledError(Exception):
  """Raised where the caller wanted to stop and there is nothing to return."""


class Progress:
  """Counts the examples of an evaluation or inference, and tells of them.

  Attributes:
    done: How many were worked on.
  """

  def __init__(
    self, total: int, on_event: OnEvent, should_stop: ShouldStop, done: int = 0
  ):
    """Begins at `done` of `total`."""
    self.done = done
    self._total = total
    self._on_event = on_event
    self._should_stop = should_stop
    self._tell("start")

  def _tell(self, kind: Kind, text: str = "") -> None:
    self._on_event(Event(kind, self.done, 0, self._total, text=text))

  def notice(self, texts: Iterable[str]) -> None:
    """Tells the caller what a user should know."""
    for text in texts:
      self._tell("notice", text)

  def advance(self, examples: int) -> None:
    """Counts more examples.

    Raises:
      CancelledError: if the caller wants to stop.
    """
    self.done += examples
    self._tell("step")
    if self._should_stop():
      raise CancelledError(
        f"Stopped after {self.done} of {self._total} examples."
      )
