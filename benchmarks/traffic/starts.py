"""What a server takes until it answers: time and memory."""

import pathlib
from typing import Any

from traffic.servers import Server

# Next to nothing beside the model that is looked at.
_SMALLEST = "checkpoints/ladder_xs/lm_100"


def starts(checkpoint: str, folder: pathlib.Path) -> dict[str, Any]:
  """Starts the demo twice, and servers of two models.

  What Python and its libraries take, the servers have in common.
  """
  demo = Server("", folder / "demo", "--demo", is_first=True)
  seconds = []
  for _ in range(2):
    try:
      seconds.append(demo.start())
    finally:
      demo.stop()
  found = {}
  for name, path in (("smallest", _SMALLEST), ("model", checkpoint)):
    server = Server(path, folder / name, is_first=True)
    try:
      server.start()
      found[name] = {
        "model_bytes": server.metric("prompt_tuning_model_bytes"),
        "resident_bytes": server.resident_bytes,
      }
    finally:
      server.stop()
  return {"demo_seconds": seconds, **found}


def rows(record: dict[str, Any]) -> list[tuple[str, str, str]]:
  """See `serving.rows`."""
  first, again = record["demo_seconds"]
  model, least = record["model"], record["smallest"]
  growth, size = (
    model[name] - least[name] for name in ("resident_bytes", "model_bytes")
  )
  return [
    ("seconds until the demo answers, the first time", "< 60", f"{first:.0f}"),
    ("again", "", f"{again:.0f}"),
    ("parameters, MB", "", f"{model['model_bytes'] / 1e6:.1f}"),
    (
      "memory of the process, over that with ladder_xs, MB",
      "",
      f"{growth / 1e6:.1f}",
    ),
    ("as copies of the parameters", "1", f"{growth / size:.2f}"),
  ]
