"""One treatment of malformed files: an error that names file and remedy.

Parsers raise errors of many classes, and few of them name the file. Packages
that do not import the trainer use `prompt_tuning.project_files` instead.
"""

from collections.abc import Iterator, Mapping
import contextlib
import errno
import json
import os
import re
from typing import Any

_COPY = "The file is damaged: get another copy."
# The limits of a reason in a message: characters, and problems of a schema.
_LENGTH, _PROBLEMS = 300, 10


@contextlib.contextmanager
def of(
  path: str | os.PathLike[str], what: str, remedy: str = _COPY
) -> Iterator[None]:
  """Turns any error of a parser into one that names the file.

  Errors that begin with the path, and errors of a disk, are left alone.

  Args:
    path: The file, or another place, such as "rows.jsonl, line 3".
    what: A noun for the expected content.
    remedy: A sentence with a remedy.

  Raises:
    ValueError: if the content is malformed.
    OSError: if the file cannot be read.
  """
  name = os.fspath(path)
  try:
    yield
  except Exception as error:
    text = " ".join(str(error).split())
    is_named = isinstance(error, ValueError) and text.startswith(name)
    # Damaged archives refer to positions that do not exist.
    is_disk = isinstance(error, OSError) and error.errno != errno.EINVAL
    if is_named or (is_disk and (name in text or error.errno is None)):
      raise
    if is_disk:
      raise OSError(error.errno, error.strerror, name) from error
    why = _why(error, text) or type(error).__name__
    raise ValueError(f"{name} is not {what}: {why}. {remedy}") from error


def _why(error: Any, text: str) -> str:
  """Returns the reason of an error, given its text in one line."""
  match error:
    case RecursionError():
      return "it is nested too deeply"
    case UnicodeDecodeError(object=content, start=start):
      lines = content[:start].count(b"\n")
      place = f"line {lines + 1}, " * bool(lines)
      return f"{place}the byte 0x{content[start]:02x} is not UTF-8"
    case KeyError():
      return f"it lacks {text}"
    case SyntaxError(lineno=int(line), text=str(content)):
      return f"line {line}, {content.strip()[:_LENGTH]}"
    case Exception(args=(str(said), (int(line), int()))):  # Python's tokenizer.
      return f"line {line}, {said}"
  if callable(getattr(error, "errors", None)):  # Pydantic's.
    shown = [
      ": ".join(filter(None, (".".join(map(str, x["loc"])), x["msg"])))
      for x in error.errors()[:_PROBLEMS]
    ]
    return "; ".join(shown).replace("Value error, ", "")
  # TensorStore's messages end with places in its source code.
  text = re.split(r" \[(?:source|tensorstore)", text)[0]
  return text[:_LENGTH].rstrip(".")


def json_file(
  path: str | os.PathLike[str],
  what: str,
  keys: Mapping[str, Any],
  remedy: str = _COPY,
  content: bytes | None = None,
) -> dict[str, Any]:
  """Reads a file with a JSON object, and checks its shape.

  Args:
    path: The file, on a disk or in a bucket.
    what: A noun for the expected content.
    keys: Key -> type, or type and default, as for pydantic. Other keys are
      allowed.
    remedy: As for `of`.
    content: The content of the file, if it has been read.

  Returns:
    The object as it is in the file, without defaults.

  Raises:
    ValueError: if it is not JSON of that shape.
    OSError: if the file cannot be read.
  """
  from etils import epath
  import pydantic  # Not at the top: help needs neither import.

  if content is None:
    content = epath.Path(path).read_bytes()
  fields: Any = {
    k: x if isinstance(x, tuple) else (x, ...) for k, x in keys.items()
  }
  with of(path, what, remedy):
    shape: Any = pydantic.create_model("Shape", **fields)
    shape.model_validate_json(content, strict=True)
    return json.loads(content)
