"""Requests to the engine, and their answers."""

from collections.abc import Callable
import concurrent.futures
import dataclasses

import numpy as np

from prompt_tuning import prompt_files


@dataclasses.dataclass(frozen=True, eq=False)
class Prompt:
  """A prompt that is served, equal only to itself.

  Attributes:
    name: The name in requests.
    array: [P, H] float32.
    metadata: The header of its file, if it has one.
  """

  name: str
  array: np.ndarray = dataclasses.field(repr=False)
  metadata: prompt_files.PromptMetadata | None = None

  @property
  def length(self) -> int:
    """Number of positions, P."""
    return len(self.array)


@dataclasses.dataclass(frozen=True)
class Generation:
  """An input to answer: one row of a batch.

  Attributes:
    tokens: The input, with the end of sequence.
    prompt: None: the model alone.
    max_tokens: Limit on the tokens of the answer.
    temperature: 0 takes the likeliest token each time.
    seed: Determines the sample, together with `choice` and regardless of the
      rest of the batch.
    choice: Distinguishes samples of one input.
    num_beams: Beams of a search; 0: no beam search.
    top_log_probs: Number of likeliest tokens to return at each step.
    on_token: Called in the engine's thread with every new token; None if only
      the whole answer is wanted.
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
  """An input with labels to score: one row of a batch.

  Attributes:
    tokens: The input, with the end of sequence.
    prompt: None: the model alone.
    labels: The tokens of each label, with the end of sequence.
  """

  tokens: tuple[int, ...]
  prompt: Prompt | None
  labels: tuple[tuple[int, ...], ...]


Request = Generation | Ranking


@dataclasses.dataclass(frozen=True)
class Token:
  """A generated token.

  Attributes:
    id: Its number in the vocabulary.
    log_prob: In nats, under the model's own distribution.
    top: The likeliest tokens at its place, with their log probabilities.
  """

  id: int
  log_prob: float
  top: tuple[tuple[int, float], ...] = ()


@dataclasses.dataclass(frozen=True)
class Generated:
  """An answer.

  Attributes:
    tokens: Without the end of sequence. After a beam search, their log
      probabilities are NaN.
    finish_reason: "stop" if the model ended it, "length" if max_tokens did.
    score: The log probability of the answer, in nats; after a beam search,
      divided by the brevity penalty.
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
    arrived: Time of arrival, on `time.monotonic`.
    future: Its result: `Generated` or `Ranked`.
  """

  def __init__(self, request: Request, arrived: float):
    """Stores its arguments."""
    self.request = request
    self.arrived = arrived
    self.future: concurrent.futures.Future[Generated | Ranked] = (
      concurrent.futures.Future()
    )

  def cancel(self) -> None:
    """Gives the request up; work on it stops soon."""
    self.future.cancel()

  @property
  def is_over(self) -> bool:
    """True once it is answered or cancelled."""
    return self.future.done()

  def finish(self, result: Generated | Ranked | BaseException) -> None:
    """Gives the answer or an error to the waiting caller, if there is one."""
    # Once the future is running, `cancel` can no longer interfere.
    if self.future.done() or not self.future.set_running_or_notify_cancel():
      return
    if isinstance(result, BaseException):
      self.future.set_exception(result)
    else:
      self.future.set_result(result)
