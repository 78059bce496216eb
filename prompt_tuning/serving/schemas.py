"""The bodies of requests, with the OpenAI fields that the server supports."""

from collections.abc import Sequence
from typing import Annotated, Any, ClassVar, Literal

import fastapi
import pydantic

# OpenAI's default of `max_tokens` for a completion; a chat has no default.
_MAX_TOKENS = 16
MAX_STEPS = 1_000_000
MAX_LEARNING_RATE = 100.0
_SUFFIX = r"^[A-Za-z0-9][A-Za-z0-9._-]{0,63}$"
Limit = Annotated[int, fastapi.Query(ge=1)]


def _encodable(text: str) -> str:
  text.encode()  # JSON may contain lone surrogates, which UTF-8 cannot encode.
  return text


Text = Annotated[str, pydantic.AfterValidator(_encodable)]
_Key = Annotated[Text, pydantic.Field(max_length=64)]
_Note = Annotated[Text, pydantic.Field(max_length=512)]
# A list may be long, and one wrong item is enough to refuse it.
_FAIL_FAST = pydantic.Field(fail_fast=True)
_Tokens = Annotated[list[int], _FAIL_FAST]
Input = (
  Text
  | Annotated[list[Text], _FAIL_FAST]
  | _Tokens
  | Annotated[list[_Tokens], _FAIL_FAST]
)


class Schema(pydantic.BaseModel):
  """A JSON object; unknown fields are refused rather than ignored."""

  model_config = pydantic.ConfigDict(extra="forbid", allow_inf_nan=False)
  # OpenAI's clients send null for fields that are not set.
  _unset: ClassVar[Sequence[str | None]] = (None,)

  @pydantic.model_validator(mode="before")
  @classmethod
  def _without_unset(cls, body: Any) -> Any:
    if not isinstance(body, dict):
      return body
    return {name: x for name, x in body.items() if x not in cls._unset}


class StreamOptions(Schema):
  """The options of a stream."""

  include_usage: bool = False


class Generating(Schema):
  """The fields of all requests that ask for text.

  An unsupported field is accepted only with a value that changes nothing.

  Attributes:
    field: The name of the field that holds the input.
    kind: The name of an answer.
    chunk: The name of a piece of a stream.
  """

  field: ClassVar[str]
  kind: ClassVar[str]
  chunk: ClassVar[str]
  model: Text
  max_tokens: int | None = pydantic.Field(None, ge=1)
  temperature: float = pydantic.Field(0.0, ge=0, le=2)
  n: int = pydantic.Field(1, ge=1, le=128)
  seed: int | None = None
  # OpenAI's maximum; the server searches for each after every token.
  stop: Annotated[
    list[Text],
    pydantic.Field(max_length=4),
    pydantic.BeforeValidator(lambda x: [x] if isinstance(x, str) else x),
  ] = []
  stream: bool = False
  stream_options: StreamOptions | None = None
  user: str | None = None
  safety_identifier: str | None = None
  prompt_cache_key: str | None = None
  # Not in OpenAI's API: the number of beams of a beam search.
  num_beams: int = pydantic.Field(0, ge=0)
  top_p: Literal[1] | None = None
  presence_penalty: Literal[0] | None = None
  frequency_penalty: Literal[0] | None = None
  logit_bias: dict[str, float] | None = pydantic.Field(None, max_length=0)


class Completion(Generating):
  """The body of `POST /v1/completions`."""

  field = "prompt"
  kind = chunk = "text_completion"
  prompt: Input
  logprobs: int | None = pydantic.Field(None, ge=0, le=5)
  best_of: Literal[1] | None = None
  echo: Literal[False] | None = None
  suffix: Literal[""] | None = None

  @property
  def given(self) -> Input:
    """The inputs."""
    return self.prompt

  @property
  def limit(self) -> int | None:
    """The greatest number of tokens of an answer."""
    return self.max_tokens or _MAX_TOKENS

  @property
  def top(self) -> int | None:
    """Number of likeliest tokens to show; None: no log probabilities."""
    return self.logprobs

  def content(self, text: str, first: int) -> dict[str, Any]:
    """Returns the fields that hold a text, whose first token is `first`."""
    del first
    return {"text": text}

  def log_probs(self, found: dict[str, Any]) -> dict[str, Any]:
    """Returns log probabilities as answers show them."""
    return found


class Part(Schema):
  """A part of a message."""

  type: Literal["text"]
  text: Text


class Message(Schema):
  """A message of a conversation, in any role."""

  role: Text
  content: Text | list[Part] = ""
  name: str | None = None

  @property
  def text(self) -> str:
    """The whole text of the message."""
    if isinstance(self.content, str):
      return self.content
    return "".join(part.text for part in self.content)


def _asking(messages: list[Message]) -> list[Message]:
  if all(message.role != "user" for message in messages):
    raise ValueError("expected a message with the role user")
  return messages


class TextFormat(Schema):
  """The only format of answers: text."""

  type: Literal["text"]


class Chat(Generating):
  """The body of `POST /v1/chat/completions`."""

  field = "messages"
  kind, chunk = "chat.completion", "chat.completion.chunk"
  messages: Annotated[
    list[Message], _FAIL_FAST, pydantic.AfterValidator(_asking)
  ]
  max_completion_tokens: int | None = pydantic.Field(None, ge=1)
  logprobs: bool = False
  top_logprobs: int | None = pydantic.Field(None, ge=0, le=5)
  response_format: TextFormat | None = None
  tools: list[Any] | None = pydantic.Field(None, max_length=0)
  tool_choice: Literal["none", "auto"] | None = None
  parallel_tool_calls: bool | None = None  # No effect without tools.
  modalities: list[Literal["text"]] | None = None
  store: Literal[False] | None = None
  service_tier: Literal["auto", "default"] | None = None

  @property
  def given(self) -> Input:
    """The user's last message; prompts are tuned on single inputs."""
    return [x.text for x in self.messages if x.role == "user"][-1]

  @property
  def conversation(self) -> list[dict[str, str]]:
    """All messages, for a model with a chat template."""
    return [{"role": x.role, "content": x.text} for x in self.messages]

  @property
  def limit(self) -> int | None:
    """The greatest number of tokens of an answer; None: the server's limit."""
    return self.max_completion_tokens or self.max_tokens

  @property
  def top(self) -> int | None:
    """Number of likeliest tokens to show; None: no log probabilities."""
    return (self.top_logprobs or 0) if self.logprobs else None

  def content(self, text: str, first: int) -> dict[str, Any]:
    """Returns the fields that hold a text, whose first token is `first`."""
    if not self.stream:
      return {"message": {"role": "assistant", "content": text}}
    role = {} if first else {"role": "assistant"}
    return {"delta": {**role, "content": text}}

  def log_probs(self, found: dict[str, Any]) -> dict[str, Any]:
    """Returns log probabilities as answers show them."""

    def shown(token: str, log_prob: float) -> dict[str, Any]:
      # A partial character is shown as U+FFFD, whose bytes differ.
      utf8 = None if "\ufffd" in token else list(token.encode())
      return {"token": token, "logprob": log_prob, "bytes": utf8}

    top = found["top_logprobs"] or [{}] * len(found["tokens"])
    return {
      "content": [
        {**shown(*own), "top_logprobs": [shown(*x) for x in likeliest.items()]}
        for *own, likeliest in zip(
          found["tokens"], found["token_logprobs"], top, strict=True
        )
      ]
    }


def _without_tokens(given: Any) -> Any:
  """Refuses token ids, which clients would take from OpenAI's vocabularies."""
  first = given[0] if isinstance(given, list) and given else ""
  if isinstance(first, int | list):
    raise ValueError("expected texts, as the server has its own vocabulary")
  return given


class Embedding(Schema):
  """The body of `POST /v1/embeddings`."""

  model: Text
  input: Annotated[
    Text | Annotated[list[Text], _FAIL_FAST],
    pydantic.BeforeValidator(_without_tokens),
  ]
  encoding_format: Literal["float", "base64"] = "float"
  dimensions: int | None = None
  user: str | None = None


class Rank(Schema):
  """The body of `POST /v1/rank`."""

  model: Text
  prompt: Input
  labels: list[Text] = pydantic.Field(
    min_length=1, max_length=1000, fail_fast=True
  )


class Hyperparameters(Schema):
  """The hyperparameters of a job: OpenAI's, and those for prompts."""

  _unset = (None, "auto")
  n_epochs: int | None = pydantic.Field(None, ge=1)
  batch_size: int | None = pydantic.Field(None, ge=1, le=1024)
  learning_rate_multiplier: float = 1.0  # Of the default; the rate wins.
  length: int | None = pydantic.Field(None, ge=1)
  steps: int | None = pydantic.Field(None, ge=1, le=MAX_STEPS)
  init: Literal["class_labels", "sampled_vocab", "random_uniform"] | None = None
  learning_rate: float | None = pydantic.Field(None, gt=0, le=MAX_LEARNING_RATE)
  rank: bool = False
  labels: list[Text] | None = pydantic.Field(
    None, max_length=1000, fail_fast=True
  )


class Supervised(Schema):
  """The settings of supervised tuning, the only method."""

  hyperparameters: Hyperparameters | None = None


class Method(Schema):
  """A method of tuning, around its hyperparameters."""

  type: Literal["supervised"]
  supervised: Supervised = Supervised()


class NewJob(Schema):
  """The body of `POST /v1/fine_tuning/jobs`."""

  model: Text
  training_file: Text
  validation_file: Text | None = None
  suffix: str = pydantic.Field("prompt", pattern=_SUFFIX)
  seed: int = pydantic.Field(0, ge=0, lt=2**31)
  hyperparameters: Hyperparameters = Hyperparameters()
  # OpenAI's newer field for hyperparameters, which wins.
  method: Method | None = None
  metadata: dict[_Key, _Note] | None = pydantic.Field(None, max_length=16)
  integrations: list[Any] | None = pydantic.Field(None, max_length=0)
