"""Calls client packages against a server, and prints the outcomes for
docs/serving.md.

In a separate environment, beside a running `prompt-tuning serve --demo`:

  pip install openai litellm langchain-openai instructor \
    llama-index-llms-openai-like llama-index-embeddings-openai-like
  python benchmarks/clients.py http://127.0.0.1:8000/v1 ladder_boolq

The script needs only these packages. Calls use the packages' own defaults.
"""

import pathlib
import sys
import tomllib
from typing import Any

# The code that makes the clients, and their calls.
_TABLE = tomllib.loads(pathlib.Path(__file__).with_suffix(".toml").read_text())


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
    reason = reason or str(error).partition("\n")[0]
    return f"| `{call}` | {status}: {reason} |"


def main() -> None:
  """Prints the table."""
  names: dict[str, Any] = dict(zip(("URL", "M"), sys.argv[1:], strict=True))
  exec(_TABLE["setup"], names)
  print("| Call | Outcome |\n|---|---|")
  for call in _TABLE["calls"]:
    print(outcome(call, names), flush=True)


if __name__ == "__main__":
  main()
