"""What the engine is asked, and what it answers."""

from collections.abc import Callable
import concurrent.futures
import dataclasses

import numpy as np

from prompt_tuning import prompt_files


@dataclasses.dataclass(frozen=True, eq=False)
class Prompt:
  """A prompt that is served; two are the same if they are one object.

  Attributes:
    name: As requests call it.
    array: [P, H] float32.
    metadata: What its file says, if it says anything.
  """

  name: str
  array: np.ndarray = dataclasses.field(repr=False)
  metadata: prompt_files.PromptMetadata | None = None

  @property
  def length(self) -> int:
    """Positions, P."""
    return len(self.array)


@dataclasses.dataclass(frozen=True)
class Generation:
  """A text to continue: one row of a batch.

  Attributes:
    tokens: The input, with the end of sequence.
    prompt: None: the model alone.
    max_tokens: Of the answer, at most.
    temperature: 0 takes the likeliest token each time.
    seed: With `choice`, says what is sampled, whatever else is in the batch.
    choice: Tells samples of one input apart.
    num_beams: Of a beam search; 0: there is none.
    top_log_probs: How many of the likeliest tokens are told at each step.
    on_token: Called in the engine's thread with every token as it comes; None
      where the answer is wanted as a whole.
  """

  tokens: tuple[int, ...]
  prompt: Prompt | None
  max_tokens: int
  temperature: float = 0.0
  seed: int = 0
  choice: int = 0
  num_beams: int = 0
  top_log_probs: int = 0
  on_token: Callable[["Token"], None] | None = None


@dataclasses.dataclass(frozen=True)
class Ranking:
  """An input whose labels are to be scored: one row of a batch.

  Attributes:
    tokens: The input, with the end of sequence.
    prompt: None: the model alone.
    labels: The tokens of each, with the end of sequence.
  """

  tokens: tuple[int, ...]
  prompt: Prompt | None
  labels: tuple[tuple[int, ...], ...]


Request = Generation | Ranking


@dataclasses.dataclass(frozen=True)
class Token:
  """A token that was generated.

  Attributes:
    id: Its number.
    log_prob: In nats, of the model's own distribution.
    top: The likeliest tokens there and their log probabilities.
  """

  id: int
  log_prob: float
  top: tuple[tuple[int, float], ...] = ()


@dataclasses.dataclass(frozen=True)
class Generated:
  """An answer.

  Attributes:
    tokens: Without the end of sequence. Those of a beam search have no log
      probabilities of their own: NaN.
    finish_reason: "stop" if the model ended it, "length" if max_tokens did.
    score: The log probability of the whole, in nats; that of a beam search is
      divided by its brevity penalty.
  """

  tokens: tuple[Token, ...]
  finish_reason: str
  score: float


# The log likelihood of each label, in nats.
Ranked = tuple[float, ...]


class Ticket:
  """A request in the engine.

  Attributes:
    request: The request.
    arrived: When, on `time.monotonic`.
    future: Its result: `Generated` or `Ranked`.
  """

  def __init__(self, request: Request, arrived: float):
    """Notes its arguments."""
    self.request = request
    self.arrived = arrived
    self.future: concurrent.futures.Future[Generated | Ranked] = (
      concurrent.futures.Future()
    )

  def cancel(self) -> None:
    """Says that nobody waits for it any more; its work stops soon."""
    self.future.cancel()

  @property
  def is_over(self) -> bool:
    """Whether there is no more to do for it."""
    return self.future.done()

  def finish(self, result: Generated | Ranked | BaseException) -> None:
    """Gives the answer, or why there is none, to who waits, if anybody does."""
    # Once it runs, `cancel` has no effect on it, and nothing can come between.
    if self.future.done() or not self.future.set_running_or_notify_cancel():
      return
    if isinstance(result, BaseException):
      self.future.set_exception(result)
    else:
      self.future.set_result(result)
