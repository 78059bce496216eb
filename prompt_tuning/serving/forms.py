"""The bodies of requests, in OpenAI's form, as far as they are understood."""

from typing import Annotated, Any, Literal

import pydantic


def _encodable(text: str) -> str:
  text.encode()  # JSON has halves of characters, which no text has.
  return text


Text = Annotated[str, pydantic.AfterValidator(_encodable)]
# One wrong item is enough to refuse a list, which may have many.
_FAIL_FAST = pydantic.Field(fail_fast=True)
_Tokens = Annotated[list[int], _FAIL_FAST]
Input = (
  Text
  | Annotated[list[Text], _FAIL_FAST]
  | _Tokens
  | Annotated[list[_Tokens], _FAIL_FAST]
)


class Form(pydantic.BaseModel):
  """A body; what is not known is refused, as it would be ignored."""

  model_config = pydantic.ConfigDict(extra="forbid", allow_inf_nan=False)

  @pydantic.model_validator(mode="before")
  @classmethod
  def _without_null(cls, body: Any) -> Any:
    """OpenAI's clients send null for what is not given."""
    if not isinstance(body, dict):
      return body
    return {name: value for name, value in body.items() if value is not None}


class StreamOptions(Form):
  """What else a stream has."""

  include_usage: bool = False


class Completion(Form):
  """The body of `POST /v1/completions`.

  Fields that are not supported are there with the value that changes nothing.
  """

  model: Text
  prompt: Input
  max_tokens: int | None = pydantic.Field(None, ge=1)
  temperature: float = pydantic.Field(0.0, ge=0, le=2)
  n: int = pydantic.Field(1, ge=1, le=128)
  logprobs: int | None = pydantic.Field(None, ge=0, le=5)
  seed: int | None = None
  # As many as OpenAI's: each is looked for after every token.
  stop: Text | Annotated[list[Text], pydantic.Field(max_length=4)] | None = None
  stream: bool = False
  stream_options: StreamOptions | None = None
  user: str | None = None
  # Ours: a beam search.
  num_beams: int = pydantic.Field(0, ge=0)
  top_p: Literal[1] | None = None
  presence_penalty: Literal[0] | None = None
  frequency_penalty: Literal[0] | None = None
  logit_bias: dict[str, float] | None = pydantic.Field(None, max_length=0)
  best_of: Literal[1] | None = None
  echo: Literal[False] | None = None
  suffix: Literal[""] | None = None


class Rank(Form):
  """The body of `POST /v1/rank`."""

  model: Text
  prompt: Input
  labels: list[Text] = pydantic.Field(
    min_length=1, max_length=1000, fail_fast=True
  )
