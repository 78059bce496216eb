"""Prompts, requests to the engine, and their answers."""

from collections.abc import Callable, Mapping, Sequence
import concurrent.futures
import dataclasses
import os
import tempfile
from typing import Any

import numpy as np

from prompt_tuning import prompt_files
from prompt_tuning.interop import hub, peft_adapters, prompt_conversion


@dataclasses.dataclass(frozen=True, eq=False)
class TunedPrompt:
  """A prompt with its metadata, equal only to itself.

  Attributes:
    array: [P, H] float32.
    metadata: The header of its file; None if the file has none.
    status: The end of its training: "finished", "stopped" or "interrupted";
      None if the prompt comes from a file.
    evals: The evaluations of its training: {"step", "metrics", "score"}.
    name: The prompt's name in requests to a server.
  """

  array: np.ndarray = dataclasses.field(repr=False)
  metadata: prompt_files.PromptMetadata | None = None
  status: str | None = None
  evals: Sequence[Mapping[str, Any]] = dataclasses.field(default=(), repr=False)
  name: str = ""

  @classmethod
  def load(cls, path: str | os.PathLike[str]) -> "TunedPrompt":
    """Reads a prompt in any format; see `prompt_conversion.read_prompt`.

    Raises:
      ValueError: if the file or folder is missing, or has no prompt.
    """
    return cls(*prompt_conversion.read_prompt(path))

  def save(self, path: str | os.PathLike[str]) -> None:
    """Writes a `.safetensors` file, or a `.npy` without metadata.

    Raises:
      ValueError: if the path has another suffix.
    """
    prompt_files.save_prompt(path, self.array, self.metadata)

  def to_peft(
    self, folder: str | os.PathLike[str], base_model: str | None = None
  ) -> None:
    """Writes an adapter that `peft.PeftModel.from_pretrained` loads.

    Args:
      folder: A new folder, or an empty one.
      base_model: Name or path of the Hugging Face model that the prompt belongs
        to; by default the one in the metadata.

    Raises:
      ValueError: if the folder is not empty.
    """
    peft_adapters.save_adapter(folder, self.array, self.metadata, base_model)

  def push_to_hub(
    self,
    repository: str,
    base_model: str | None = None,
    is_private: bool = False,
  ) -> str:
    """Uploads the prompt as a PEFT adapter with a model card.

    Args:
      repository: OWNER/NAME on the Hugging Face hub; created if missing.
      base_model: The model's name there; by default the one in the metadata.
      is_private: Whether a new repository is private.

    Returns:
      The repository's address.

    Raises:
      ValueError: if a name is missing, or the hub refuses or cannot be
        reached.
    """
    base_model = base_model or (self.metadata and self.metadata.base_model)
    hub.check_names(repository, base_model)
    with (
      hub.opened(f"{repository} cannot be written to") as api,
      tempfile.TemporaryDirectory(prefix="prompt_") as scratch,
    ):
      folder = f"{scratch}/adapter"
      peft_adapters.save_adapter(
        folder, self.array, self.metadata, base_model, repository
      )
      made = api.create_repo(repository, private=is_private, exist_ok=True)
      api.upload_folder(
        repo_id=repository,
        folder_path=folder,
        commit_message="Add a prompt of prompt-tuning",
      )
    return str(made)

  @property
  def length(self) -> int:
    """Number of positions, P."""
    return len(self.array)

  @property
  def score(self) -> float | None:
    """The validation score of this prompt, if there is one."""
    return None if self.metadata is None else self.metadata.score


@dataclasses.dataclass(frozen=True)
class Request:
  """An input: one row of a batch.

  Attributes:
    tokens: The input, with the end of sequence.
    prompt: The prompt, or None for the model alone.
  """

  tokens: tuple[int, ...]
  prompt: TunedPrompt | None

  @property
  def prompt_length(self) -> int:
    """Number of positions of the prompt; 0 without a prompt."""
    return self.prompt.length if self.prompt else 0


@dataclasses.dataclass(frozen=True)
class Generation(Request):
  """An input to answer.

  Attributes:
    max_tokens: Limit on the tokens of the answer.
    temperature: 0 takes the likeliest token each time.
    seed: Determines the sample, together with `choice` and regardless of the
      rest of the batch.
    choice: Distinguishes samples of one input.
    num_beams: Width of a beam search; 0 for none.
    top_log_probs: Number of likeliest tokens to return at each step.
    on_token: Called in the engine's thread with every new token; None if only
      the whole answer is wanted. An error that it raises ends the request.
    is_enough: Called in the engine's thread, every few tokens, with the tokens
      so far; True ends the answer. An error ends the request, as in `on_token`.
  """

  max_tokens: int
  temperature: float = 0.0
  seed: int = 0
  choice: int = 0
  num_beams: int = 0
  top_log_probs: int = 0
  on_token: Callable[["Token"], None] | None = None
  is_enough: Callable[[Sequence[int]], bool] | None = None


@dataclasses.dataclass(frozen=True)
class Ranking(Request):
  """An input with labels to score.

  Attributes:
    labels: The tokens of each label, with the end of sequence.
  """

  labels: tuple[tuple[int, ...], ...]


class Embedding(Request):
  """An input whose encoding is wanted."""


@dataclasses.dataclass(frozen=True)
class Token:
  """A generated token.

  Attributes:
    id: Its number in the vocabulary.
    log_prob: In nats, under the model's own distribution.
    top: The likeliest tokens at this position, with their log probabilities.
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
    finish_reason: "length" if max_tokens ended it, "stop" if the model or
      `is_enough` did.
    score: The log probability of the answer, in nats; after a beam search,
      divided by the brevity penalty.
  """

  tokens: tuple[Token, ...]
  finish_reason: str
  score: float


# The log likelihood of each label, in nats.
Ranked = tuple[float, ...]
# [H] float32, the mean of the encoded tokens of an input, without its prompt; a
# decoder's output at the last one.
Embedded = np.ndarray


class Ticket(concurrent.futures.Future):
  """A request in the engine, and its future answer.

  Cancelling a ticket abandons its request: work on it stops soon.

  Attributes:
    request: The request.
    arrived: Time of arrival, on `time.monotonic`.
  """

  def __init__(self, request: Request, arrived: float):
    """Stores its arguments."""
    super().__init__()
    self.request = request
    self.arrived = arrived

  def finish(
    self, result: Generated | Ranked | Embedded | BaseException
  ) -> None:
    """Gives the answer or an error to the waiting caller, if there is one."""
    # Once the future is running, `cancel` can no longer interfere.
    if self.done() or not self.set_running_or_notify_cancel():
      return
    if isinstance(result, BaseException):
      self.set_exception(result)
    else:
      self.set_result(result)
