"""The bodies of requests, as far as the server supports OpenAI's fields."""

from collections.abc import Sequence
from typing import Annotated, Any, ClassVar, Literal

import pydantic

from prompt_tuning.tuning_jobs.jobs import Settings

MAX_STEPS = 1_000_000
MAX_LEARNING_RATE = 100.0
_SUFFIX = r"^[A-Za-z0-9][A-Za-z0-9._-]{0,39}$"


def _encodable(text: str) -> str:
  text.encode()  # JSON may contain lone surrogates, which no text has.
  return text


Text = Annotated[str, pydantic.AfterValidator(_encodable)]
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
  # OpenAI's clients send them for fields that are not set.
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


class Completion(Schema):
  """The body of `POST /v1/completions`.

  An unsupported field is accepted with the value that changes nothing.
  """

  model: Text
  prompt: Input
  max_tokens: int | None = pydantic.Field(None, ge=1)
  temperature: float = pydantic.Field(0.0, ge=0, le=2)
  n: int = pydantic.Field(1, ge=1, le=128)
  logprobs: int | None = pydantic.Field(None, ge=0, le=5)
  seed: int | None = None
  # OpenAI's maximum: the server looks for each after every token.
  stop: Text | Annotated[list[Text], pydantic.Field(max_length=4)] | None = None
  stream: bool = False
  stream_options: StreamOptions | None = None
  user: str | None = None
  # Not OpenAI's: the number of beams of a beam search.
  num_beams: int = pydantic.Field(0, ge=0)
  top_p: Literal[1] | None = None
  presence_penalty: Literal[0] | None = None
  frequency_penalty: Literal[0] | None = None
  logit_bias: dict[str, float] | None = pydantic.Field(None, max_length=0)
  best_of: Literal[1] | None = None
  echo: Literal[False] | None = None
  suffix: Literal[""] | None = None


class Rank(Schema):
  """The body of `POST /v1/rank`."""

  model: Text
  prompt: Input
  labels: list[Text] = pydantic.Field(
    min_length=1, max_length=1000, fail_fast=True
  )


class Hyperparameters(Schema):
  """The hyperparameters of a job: OpenAI's, and those of prompts."""

  _unset = (None, "auto")
  n_epochs: int | None = pydantic.Field(None, ge=1)
  batch_size: int | None = pydantic.Field(None, ge=1, le=1024)
  learning_rate_multiplier: float = 1.0
  length: int | None = pydantic.Field(None, ge=1)
  steps: int | None = pydantic.Field(None, ge=1, le=MAX_STEPS)
  init: Literal["class_labels", "sampled_vocab", "random_uniform"] | None = None
  learning_rate: float = pydantic.Field(
    Settings.learning_rate, gt=0, le=MAX_LEARNING_RATE
  )
  rank: bool = False


class NewJob(Schema):
  """The body of `POST /v1/fine_tuning/jobs`."""

  model: Text
  training_file: Text
  validation_file: Text | None = None
  suffix: str = pydantic.Field("prompt", pattern=_SUFFIX)
  seed: int = pydantic.Field(0, ge=0, lt=2**31)
  hyperparameters: Hyperparameters = pydantic.Field(
    # Type checkers would take the class's own fields for required.
    default_factory=lambda: Hyperparameters()
  )
