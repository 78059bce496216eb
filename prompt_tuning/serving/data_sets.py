"""Data sets as files: lines of JSON, each an example."""

import json


def parse_pairs(content: bytes) -> list[tuple[str, str]]:
  """Reads lines of JSON with the texts `prompt` and `completion`.

  Raises:
    ValueError: for a line that is another, which it names, or if there is none.
  """
  try:
    lines = content.decode("utf-8-sig").split("\n")
  except UnicodeDecodeError as error:
    raise ValueError(f"Expected UTF-8, got {error}.") from None
  pairs = []
  for number, line in enumerate(lines, 1):
    if not line.strip():
      continue
    try:
      row = json.loads(line)
      pair = row["prompt"], row["completion"]
      "".join(pair).encode()  # Halves of characters are none.
    except (ValueError, LookupError, TypeError, RecursionError):
      pair = ()
    if not pair or not all(isinstance(x, str) and x.strip() for x in pair):
      raise ValueError(
        f"Line {number}: expected an object of JSON with the texts 'prompt' "
        f"and 'completion', got {line[:80]!r}."
      )
    pairs.append(pair)
  if not pairs:
    raise ValueError("Expected lines of JSON, got none.")
  return pairs
