"""A server with growing numbers of prompts, clients and processes."""

from collections.abc import Mapping, Sequence
import pathlib
from typing import Any

from matplotlib import figure

import prompt_tuning as pt
from traffic import mixed, servers
from traffic.servers import Server

_CLIENTS = 32
# The number of prompts while the other numbers grow.
_PROMPTS = 100
_RATE = f"requests a second, {_CLIENTS} clients"
# For each panel: the fields of its axes, and the vertical axis's label.
_PANELS = (
  ("prompts", "start_seconds", "seconds until the server answers"),
  ("prompts", "megabytes", "memory of the server, MB"),
  ("prompts", "rates", _RATE),
  ("clients", "rates_of_clients", "requests a second"),
  ("numbers_of_processes", "rates_of_processes", _RATE),
  ("numbers_of_processes", "megabytes_of_processes", "memory of all, MB"),
)


def growing(
  checkpoint: str,
  task: str,
  prompts: Sequence[int],
  clients: Sequence[int],
  processes: Sequence[int],
  seconds: float,
  folder: pathlib.Path,
) -> dict[str, Any]:
  """Starts a server for each number of prompts, and sends it requests.

  Args:
    checkpoint: The frozen model.
    task: The task of the inputs.
    prompts: Rising numbers of prompts of 20 positions, all used equally.
    clients: Numbers of clients, each of which waits for an answer before it
      sends again.
    processes: Numbers of processes of a server.
    seconds: Seconds of a measurement.
    folder: A folder for the prompts.

  Returns:
    For each number of prompts, the seconds of the start, the server's memory
    after the requests, and the answers per second; for each number of clients,
    the answers per second; for each number of processes, the last two.
  """
  model = pt.load(checkpoint)
  texts = mixed.texts(model, task, 500)
  found = mixed.make_prompts(model, [mixed.POSITIONS] * prompts[-1])
  server, saved = Server(checkpoint, folder), 0

  def rate(number: int, clients: int = _CLIENTS) -> float:
    traffic = servers.Traffic(server, texts, [1] * number)
    return traffic.as_fast_as_answered(clients, seconds)

  record: dict[str, Any] = {"prompts": prompts, "clients": clients}
  record |= {"numbers_of_processes": processes} | {
    name: [] for _, name, _ in _PANELS
  }
  try:
    server.start()  # This may compile.
    server.stop()
    for number in prompts:
      mixed.save_prompts(found[saved:number], folder)
      saved = number
      record["start_seconds"].append(server.start())
      rate(number)  # Loads the prompts.
      record["rates"].append(rate(number))
      record["megabytes"].append(server.resident_bytes / 1e6)
      server.stop()
    server.start()
    served = min(_PROMPTS, saved)
    rate(served)
    record["rates_of_clients"] = [rate(served, x) for x in clients]
    for number in processes:
      server.stop()
      words = (*servers.SHORT, f"--processes={number}")
      server = Server(checkpoint, folder, *words)
      server.start()
      rate(served)
      record["rates_of_processes"].append(rate(served))
      record["megabytes_of_processes"].append(server.own_bytes / 1e6)
    return record
  finally:
    server.stop()


def values(record: dict[str, Any]) -> dict[str, Any]:
  """See `serving.rows`."""
  lists = {name: x for name, x in record.items() if isinstance(x, list)}
  return {k: ", ".join(f"{n:.0f}" for n in x) for k, x in lists.items()}


def draw(record: Mapping[str, Any]) -> figure.Figure:
  """Draws the growth with prompts, clients and processes, a panel for each."""
  page = figure.Figure(figsize=(10, 6), layout="constrained")
  panels = page.subplots(2, len(_PANELS) // 2).flat
  for panel, (over, name, label) in zip(panels, _PANELS, strict=True):
    panel.semilogx(record[over], record[name], "o-")
    panel.set(xlabel=over, ylabel=label)
    if over != "prompts":
      name = over.removeprefix("numbers_of_")
      panel.set_xlabel(f"{name}, {_PROMPTS} prompts")
      panel.set_xticks(record[over], record[over], minor=False)
      panel.set_xticks([], minor=True)
    panel.set_ylim(0, 1.1 * max(panel.lines[0].get_ydata()))
    panel.grid(alpha=0.3)
  return page
