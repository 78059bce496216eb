"""A server as its prompts and its clients grow in number."""

from collections.abc import Mapping, Sequence
import pathlib
from typing import Any

from matplotlib import figure

import prompt_tuning as pt
from traffic import mixed, servers
from traffic.servers import Server

_CLIENTS = 32
# The prompts that are served while the clients grow.
_PROMPTS = 100
# Of the panels: the field and the label of the vertical axis.
_OF_PROMPTS = (
  ("start_seconds", "seconds until the server answers"),
  ("megabytes", "memory of the server, MB"),
  ("rates", f"requests a second, {_CLIENTS} clients"),
)


def growing(
  checkpoint: str,
  task: str,
  prompts: Sequence[int],
  clients: Sequence[int],
  seconds: float,
  folder: pathlib.Path,
) -> dict[str, Any]:
  """Starts a server for each number of prompts, and asks it.

  Args:
    checkpoint: The frozen model.
    task: The task of the inputs.
    prompts: Rising numbers of prompts of 20 positions, all asked evenly.
    clients: Numbers of clients that each send once they are answered.
    seconds: Of a measurement.
    folder: For the prompts.

  Returns:
    For each number of prompts, the seconds of the start, the server's memory
    after the requests, and answers a second; these for each number of clients.
  """
  model = pt.load(checkpoint)
  texts = mixed.texts(model, task, 500)
  found = mixed.make_prompts(model, [mixed.POSITIONS] * prompts[-1])
  server, saved = Server(checkpoint, folder), 0

  def rate(number: int, clients: int) -> float:
    traffic = servers.Traffic(server, texts, [1] * number)
    return traffic.as_fast_as_answered(clients, seconds)

  record: dict[str, Any] = {"prompts": prompts, "clients": clients}
  record |= {name: [] for name, _ in _OF_PROMPTS} | {"rates_of_clients": []}
  try:
    server.start()  # Which may compile.
    server.stop()
    for number in prompts:
      mixed.save_prompts(found[saved:number], folder)
      saved = number
      record["start_seconds"].append(server.start())
      rate(number, _CLIENTS)  # Loads the prompts.
      record["rates"].append(rate(number, _CLIENTS))
      record["megabytes"].append(server.resident_bytes / 1e6)
      server.stop()
    server.start()
    served = min(_PROMPTS, saved)
    rate(served, _CLIENTS)
    record["rates_of_clients"] = [rate(served, x) for x in clients]
    return record
  finally:
    server.stop()


def values(record: dict[str, Any]) -> dict[str, Any]:
  """See `serving.rows`."""
  lists = {name: x for name, x in record.items() if isinstance(x, list)}
  return {k: ", ".join(f"{n:.0f}" for n in x) for k, x in lists.items()}


def draw(record: Mapping[str, Any]) -> figure.Figure:
  """Draws start, memory and rate against prompts, and rate against clients."""
  page = figure.Figure(figsize=(13, 3.5), layout="constrained")
  *panels, last = page.subplots(1, len(_OF_PROMPTS) + 1)
  for panel, (name, label) in zip(panels, _OF_PROMPTS, strict=True):
    panel.semilogx(record["prompts"], record[name], "o-")
    panel.set(xlabel="prompts", ylabel=label)
  last.semilogx(record["clients"], record["rates_of_clients"], "o-", base=2)
  last.set_xticks(record["clients"], record["clients"])
  last.set(xlabel=f"clients, {_PROMPTS} prompts", ylabel="requests a second")
  for panel in (*panels, last):
    panel.set_ylim(0, 1.1 * max(panel.lines[0].get_ydata()))
    panel.grid(alpha=0.3)
  return page
