"""Data sets as files: lines of JSON, each an example."""

import codecs
from collections.abc import Iterator
import io
import json

# Of a line, which is in memory several times over while it is read.
_MOST_BYTES = 2**20


def parse_pairs(content: bytes) -> Iterator[tuple[str, str]]:
  """Reads lines of JSON with the texts `prompt` and `completion`.

  Yields:
    Both, of each line that is not blank.

  Raises:
    ValueError: for a line that is another, which it names, or if there is none.
  """
  is_empty = True
  for number, line in enumerate(io.BytesIO(content), 1):
    if number == 1:
      line = line.removeprefix(codecs.BOM_UTF8)
    if not line.strip():
      continue
    if len(line) > _MOST_BYTES:
      raise ValueError(
        f"Line {number}: expected at most {_MOST_BYTES} bytes, got {len(line)}."
      )
    yield _pair(line, number)
    is_empty = False
  if is_empty:
    raise ValueError("Expected lines of JSON, got none.")


def _pair(line: bytes, number: int) -> tuple[str, str]:
  try:
    text = line.decode()
  except UnicodeDecodeError as error:
    raise ValueError(f"Line {number}: expected UTF-8, got {error}.") from None
  try:
    row = json.loads(text)
    pair = row["prompt"], row["completion"]
    "".join(pair).encode()  # Halves of characters are none.
  except (ValueError, LookupError, TypeError, RecursionError):
    pair = None
  if not pair or not all(isinstance(x, str) and x.strip() for x in pair):
    raise ValueError(
      f"Line {number}: expected an object of JSON with the texts 'prompt' and "
      f"'completion', got {text[:80]!r}."
    )
  return pair
