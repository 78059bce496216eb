"""Chat templates of Hugging Face tokenizers, which wrap a user's text.

A folder has its template in `chat_template.jinja` or `tokenizer_config.json`.
"""

from collections.abc import Mapping, Sequence
import dataclasses
import functools
import json
import os
import pathlib
import time
from typing import Any, NoReturn

from prompt_tuning import project_files

# An author's "role" and the "content".
Message = Mapping[str, str]
_CONFIG, _TEMPLATE = "tokenizer_config.json", "chat_template.jinja"
# Templates are told this date on every day, or the tokens of an input would
# change between training and serving. Llama 3.1's has it as its default.
_DATE = time.strptime("2024-07-26", "%Y-%m-%d")


@dataclasses.dataclass(frozen=True)
class ChatTemplate:
  """The chat template of a tokenizer.

  Attributes:
    text: The template's source, in Jinja.
    tokens: Name, such as "eos_token" -> special token, for the template.
  """

  text: str
  tokens: Mapping[str, str]

  def __call__(self, messages: Sequence[Message]) -> str:
    """Returns a conversation as text, up to the start of the model's answer.

    Raises:
      ValueError: if the template refuses it, or jinja2 is not installed.
    """
    template = _compiled(self.text)
    arguments = {"messages": messages, "add_generation_prompt": True}
    # As transformers does: templates compare these with None.
    arguments |= dict.fromkeys(("tools", "documents"))
    try:
      return template.render(**arguments, **self.tokens)
    except Exception as error:  # Jinja's, and any of the template's own.
      raise ValueError(
        f"The model's chat template refuses the messages: {error}."
      ) from error


def read(folder: str | os.PathLike[str]) -> ChatTemplate | None:
  """Returns the template of a tokenizer's folder, if there is one.

  Raises:
    ValueError: if `tokenizer_config.json` is malformed.
  """
  folder = pathlib.Path(folder)
  config, text = dict[str, Any](), None
  if (folder / _CONFIG).is_file():
    with project_files.parsing(folder / _CONFIG, "a tokenizer's configuration"):
      config = dict(json.loads((folder / _CONFIG).read_text()))
      text = config.get("chat_template")
      if isinstance(text, list):  # Several, by name.
        text = {x["name"]: x["template"] for x in text}["default"]
  if (folder / _TEMPLATE).is_file():
    text = (folder / _TEMPLATE).read_text()
  if not isinstance(text, str):
    return None
  tokens = {
    name: x["content"] if isinstance(x, dict) else x
    for name, x in config.items()
    if name.endswith("_token") and x  # A tokenizer may lack a token.
  }
  return ChatTemplate(text, tokens)


def write(folder: pathlib.Path, template: ChatTemplate) -> None:
  """Writes a template into a folder, where `read` finds it."""
  content = {"chat_template": template.text, **template.tokens}
  (folder / _CONFIG).write_text(json.dumps(content, indent=2) + "\n")


@functools.lru_cache(maxsize=4)
def _compiled(text: str) -> Any:
  """Compiles a template, with the names that transformers defines in one."""
  try:
    from jinja2 import exceptions, ext, sandbox
  except ImportError:
    raise ValueError(
      "The model has a chat template, which needs jinja2: pip install jinja2."
    ) from None

  class Generation(ext.Extension):
    """Keeps the text of {% generation %}, which marks answers in training."""

    tags = {"generation"}  # noqa: RUF012

    def parse(self, parser):
      next(parser.stream)
      return parser.parse_statements(("name:endgeneration",), drop_needle=True)

  environment = sandbox.ImmutableSandboxedEnvironment(
    trim_blocks=True,
    lstrip_blocks=True,
    extensions=[ext.loopcontrols, Generation],
  )

  def refuse(message: str) -> NoReturn:
    raise exceptions.TemplateError(message)

  environment.filters["tojson"] = functools.partial(
    json.dumps, ensure_ascii=False
  )
  environment.globals |= {
    "raise_exception": refuse,
    "strftime_now": lambda form: time.strftime(form, _DATE),
  }
  try:
    return environment.from_string(text)
  except exceptions.TemplateError as error:
    raise ValueError(
      f"The model's chat template is broken: {error}."
    ) from error
