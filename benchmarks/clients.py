"""Calls of client packages to a server, and their outcomes, as docs/serving.md
has them.

In a separate environment, beside a running `prompt-tuning serve --demo`:

  pip install openai litellm langchain-openai instructor \
    llama-index-llms-openai-like llama-index-embeddings-openai-like
  python benchmarks/clients.py http://127.0.0.1:8000/v1 ladder_boolq

The script needs only these packages. A call has the package's own defaults.
"""

import sys
from typing import Any

_URL, _MODEL = sys.argv[1:3]
_SETUP = f"""
import instructor, litellm, openai, pydantic
from langchain_openai import ChatOpenAI, OpenAI, OpenAIEmbeddings
from llama_index.core.llms import ChatMessage
from llama_index.embeddings.openai_like import OpenAILikeEmbedding
from llama_index.llms.openai_like import OpenAILike

class Answer(pydantic.BaseModel):
  label: str

M, T = {_MODEL!r}, "passage: Tom has a boat . question: has Tom a boat ?"
MESSAGES = [{{"role": "user", "content": T}}]
litellm.suppress_debug_info = True
litellm.api_base, litellm.api_key = {_URL!r}, "any"
client = openai.OpenAI(base_url={_URL!r}, api_key="any")
SERVER = {{"model": M, "base_url": {_URL!r}, "api_key": "any"}}
LLAMA = {{"model": M, "api_base": {_URL!r}, "api_key": "any"}}
LLAMA_E = {{"model_name": M, "api_base": {_URL!r}, "api_key": "any"}}
chat = client.chat.completions
"""
_TOOL = '{"type": "function", "function": {"name": "f"}}'
_CALLS = (
  "client.models.list().data[0]",
  "client.completions.create(model=M, prompt=T)",
  "chat.create(model=M, messages=MESSAGES)",
  "[*chat.create(model=M, messages=MESSAGES, stream=True)]",
  "chat.parse(model=M, messages=MESSAGES, response_format=Answer)",
  "client.embeddings.create(model=M, input=T)",
  "client.responses.create(model=M, input=T)",
  'litellm.completion("openai/" + M, MESSAGES)',
  '[*litellm.completion("openai/" + M, MESSAGES, stream=True)]',
  f'litellm.completion("openai/" + M, MESSAGES, tools=[{_TOOL}])',
  'litellm.text_completion(T, "text-completion-openai/" + M)',
  'litellm.embedding("openai/" + M, [T])',
  "OpenAI(**SERVER).batch([T, T])",
  "ChatOpenAI(**SERVER).invoke(T)",
  "[*ChatOpenAI(**SERVER).stream(T)]",
  "ChatOpenAI(**SERVER).with_structured_output(Answer).invoke(T)",
  "OpenAIEmbeddings(**SERVER).embed_query(T)",
  "OpenAIEmbeddings(**SERVER, check_embedding_ctx_length=False).embed_query(T)",
  "OpenAILike(**LLAMA).complete(T)",
  "[*OpenAILike(**LLAMA).stream_complete(T)]",
  "OpenAILike(**LLAMA, is_chat_model=True).chat([ChatMessage(T)])",
  "OpenAILikeEmbedding(**LLAMA_E).get_text_embedding(T)",
  "instructor.from_openai(client).chat.completions.create("
  "model=M, messages=MESSAGES, response_model=None)",
  "instructor.from_openai(client).chat.completions.create("
  "model=M, messages=MESSAGES, response_model=Answer)",
)


def outcome(call: str, names: dict[str, Any]) -> str:
  """Returns a line of the table."""
  try:
    eval(call, names)
    return f"| `{call}` | answered |"
  except Exception as error:
    cause: Any = error
    while getattr(cause, "status_code", None) is None and cause.__cause__:
      cause = cause.__cause__
    status = getattr(cause, "status_code", None) or type(error).__name__
    body = getattr(cause, "body", None) or {}
    reason = body.get("message") if isinstance(body, dict) else None
    return f"| `{call}` | {status}: {reason or str(error).splitlines()[0]} |"


def main() -> None:
  """Prints the table."""
  names: dict[str, Any] = {}
  exec(_SETUP, names)
  print("| Call | Outcome |\n|---|---|")
  for call in _CALLS:
    print(outcome(call, names), flush=True)


if __name__ == "__main__":
  main()
