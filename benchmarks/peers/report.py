"""Records of comparisons, and their table."""

from collections.abc import Iterable, Mapping
import itertools
import json
import statistics
from typing import Any

import harness
from harness import spread
from peers.cases import Case
from prompt_tuning.experiments.text_tables import Table

TABLE = harness.RESULTS / "benchmarks.md"
# Of a record, whose last side it is.
PEERS = {"peft": "PEFT", "t5x": "T5X"}
_TITLES = {
  "step": "Training steps",
  "greedy": "Greedy decoding",
  "rank": "Ranking three labels",
  "prompts": "A batch of eight prompts",
}


def name_of(case: Case, peer: str) -> str:
  """Returns a record's name, which leaves out the peer if it is PEFT."""
  return case.name if peer == "peft" else f"{case.name}-{peer}"


def speed(record: Mapping[str, Any], side: str, over: str) -> list[float]:
  """Returns the ratio of speeds in each round, whose turns are adjacent."""
  a, b = record["sides"][side], record["sides"][over]
  return [y / x for x, y in zip(a["seconds"], b["seconds"], strict=True)]


def tabulate(cases: Mapping[str, Case]) -> None:
  """Writes the table of all records."""
  found = {
    peer: [
      json.loads(path.read_text())
      for case in cases.values()
      if (path := harness.RECORDS / f"{name_of(case, peer)}.json").exists()
    ]
    for peer in PEERS
  }
  about = [
    "Seconds are of a step, or of a batch, and medians over turns, with the "
    "least and the most in brackets; ratios are medians over rounds, of two "
    "turns beside each other. More is better in ratios of speed, less in those "
    "of memory. Warm-up is compilation and the first calls. Random weights of "
    "the sizes of a T5 1.1 or, for smollm2, of SmolLM2 135M, no dropout; PEFT "
    "pads to the longest of its batch. At "
    "the lengths of a task our step is that of `gin/runs/by_length.gin`, in "
    "parts of a batch, and PEFT's of the whole batch.",
  ]
  parts = []
  for work, title in _TITLES.items():
    records = [x for x in found["peft"] if x["case"]["work"] == work]
    if records:
      parts += [f"## {title}", "", table(records)]
    tasks = [x for x in records if x["case"]["task"]]
    if tasks:
      ratios = [statistics.median(speed(x, "ours", "peft")) for x in tasks]
      parts += [
        f"At real lengths, over {len(ratios)} tasks: geometric mean "
        f"{statistics.geometric_mean(ratios):.2f}, least {min(ratios):.2f}.",
        "",
      ]
    if work == "prompts":
      parts += [
        f"{x['case']['dtype']}: eight prompts take "
        f"{statistics.median(speed(x, 'ours, one prompt', 'ours')):.2f} times "
        "one prompt's time."
        for x in records
      ]
      parts.append("")
  if found["t5x"]:
    parts += [
      "## Training steps, beside Google's T5X",
      "",
      "Its trainer and partitioner around our network; unpatched.",
      "",
      table(found["t5x"]),
    ]
  runs: dict[str, set[str]] = {}
  for record in itertools.chain.from_iterable(found.values()):
    versions = [f"{name} {x}" for name, x in record["versions"].items()]
    place = f"{harness.machine(record)}; {', '.join(versions)}"
    changes = " with changes" if record["uncommitted_changes"] else ""
    runs.setdefault(place, set()).add(
      f"{record['commit'][:7]}{changes} at {record['load_average']:.0f}"
    )
  parts += [
    f"{place}. Commits, and the load average: {', '.join(sorted(some))}."
    for place, some in runs.items()
  ]
  title = "Ours and PEFT, side by side"
  TABLE.write_text(harness.page("compare.py --tabulate", title, about, parts))


def table(records: Iterable[Mapping[str, Any]]) -> str:
  """Returns a table of records that have the same peer."""
  lines = []
  for record in records:
    name = next(name for name in PEERS if name in record["sides"])
    ours, peer = record["sides"]["ours"], record["sides"][name]
    title = PEERS[name]
    lines.append(
      (
        ("Case", Case(**record["case"]).name),
        (title, spread(peer["seconds"])),
        ("ours", spread(ours["seconds"])),
        (f"ours / {title}'s speed", spread(speed(record, "ours", name))),
        (f"CPU seconds, {title}", f"{peer['cpu_seconds']:.2f}"),
        ("ours", f"{ours['cpu_seconds']:.2f}"),
        (
          f"{title} / ours",
          f"{peer['cpu_seconds'] / ours['cpu_seconds']:.2f}",
        ),
        (f"peak RSS, {title}", f"{peer['peak_bytes'] / 1e9:.1f} GB"),
        ("ours", f"{ours['peak_bytes'] / 1e9:.1f} GB"),
        ("ratio", f"{ours['peak_bytes'] / peer['peak_bytes']:.2f}"),
        (f"warm-up, {title}", f"{peer['warm_up_seconds']:.1f} s"),
        ("ours", f"{ours['warm_up_seconds']:.1f} s"),
      )
    )
  header = [name for name, _ in lines[0]]
  return Table(header, [[x for _, x in line] for line in lines]).markdown()
