"""Measures serving many prompts: speed, equality and load.

  python benchmarks/serving.py --part=mixed --part=equality

Parts: `mixed` (fifty prompts against one, and against PEFT with `set_adapter`
for each request), `equality` (answers under load against `t5x.infer`'s),
`joining` (answers of 1 to 128 tokens, where requests join a running batch),
`http` (wrk's clients against the engine in this process, and against PEFT),
`load` (a server of ten thousand prompts at the highest sustainable rate, then
at twice that), `many` (ten thousand prompts against one), `growing` (1 to
10,000 prompts, 1 to 64 clients and 1 to 32 processes, at most as many as cores,
drawn in `results/serving_growth_*.png`),
`starts` (time and memory until a server answers). The first three ask the
engine in this process, the others a server over HTTP; `http` needs wrk.
`--dtype=bfloat16` is for `mixed` and `http`, where it is PEFT's as well, and
for `many`; `--processes=N` for the server of `http`.
`--quick` runs a small version and keeps no record.
Writes a record for each part and model below `results/benchmarks/serving/`, and
`results/serving.md` from all records; `--tabulate` only writes the page.
"""

import t5x  # noqa: F401  # Before any import of TensorFlow, to keep it quiet.

# isort: split

import argparse
from collections.abc import Iterable, Mapping
import os
import pathlib
import tempfile
import tomllib
from typing import Any

from absl import logging

import harness
import prompt_tuning as pt
from prompt_tuning.experiments.text_tables import Table
from t5x.files import compilation_cache
from traffic import growing, joining, load, many, mixed, over_http, starts

# Part -> the module that computes values for its rows.
_PARTS = {
  "mixed": mixed,
  "equality": mixed,
  "joining": joining,
  "http": over_http,
  "load": load,
  "many": many,
  "growing": growing,
  "starts": starts,
}
# Flags -> their defaults, and the parts that use them.
_OF_PARTS = {
  "dtype": ("float32", {"mixed", "http", "many"}),
  "processes": (1, {"http"}),
}
_ROWS: dict[str, list[list[str]]] = tomllib.loads(
  pathlib.Path(__file__).with_name("traffic").joinpath("rows.toml").read_text()
)


def run(args: argparse.Namespace, part: str, scratch: str) -> dict[str, Any]:
  """Runs one part and returns its record."""
  folder, checkpoint, task = pathlib.Path(scratch), args.checkpoint, args.task
  found = {"part": part, "checkpoint": checkpoint, "task": task}
  for name, (default, _) in _OF_PARTS.items():
    if (value := getattr(args, name)) != default:
      found[name] = value
  if part == "mixed":
    number, rounds = (160, 2) if args.quick else (args.requests, 7)
    model = pt.load(checkpoint, dtype=args.dtype)
    return found | mixed.throughput(model, task, number, rounds, folder)
  if part == "equality":
    number = 50 if args.quick else 500
    return found | mixed.equality(pt.load(checkpoint), task, number)
  if part == "joining":
    sizes = (64, 2) if args.quick else (args.requests // 2, 5)
    return found | joining.joining(pt.load(checkpoint), task, *sizes)
  if part == "http":
    sizes = (2, 3.0) if args.quick else (7, 10.0)
    model = pt.load(checkpoint, dtype=args.dtype)
    return found | over_http.over_http(
      *(model, task, *sizes, folder, args.processes)
    )
  if part == "load":
    sizes = (100, 20.0) if args.quick else (args.prompts, args.seconds)
    return found | load.under_load(checkpoint, task, *sizes, folder)
  if part == "many":
    sizes = (100, 2, 2.0) if args.quick else (args.prompts, 5, 10.0)
    return found | many.many(checkpoint, task, *sizes, folder, args.dtype)
  if part == "growing":
    prompts = [1, 10] if args.quick else [1, 10, 100, 1000, 10_000]
    clients = [1, 4] if args.quick else [1, 2, 4, 8, 16, 32, 64]
    cores = len(os.sched_getaffinity(0))
    processes = [x for x in (1, 2, 4, 8, 16, 32) if x <= cores]
    sizes = (prompts, clients, processes, 2.0 if args.quick else 15.0)
    return found | growing.growing(checkpoint, task, *sizes, folder)
  return found | starts.starts(checkpoint, folder)


def rows(record: dict[str, Any]) -> list[tuple[str, ...]]:
  """Returns the rows of a record: (quantity, bar, measured value)."""
  values = record | _PARTS[record["part"]].values(record)
  return [
    tuple(x.format(**values) for x in row) for row in _ROWS[record["part"]]
  ]


def page(records: Iterable[Mapping[str, Any]]) -> str:
  """Returns a page of records."""
  about = [
    "Ratios are of turns beside each other: median, least and most. `mixed`,",
    "`equality` and `joining` ask the engine in one process; the others ask a",
    "server over HTTP.",
  ]
  lines, order = [], list(_PARTS)
  for record in sorted(
    records,
    key=lambda x: (order.index(x["part"]), x["checkpoint"], file_name(x)),
  ):
    names = record["checkpoint"], record["task"], *_variant(record)
    lines += [
      f"## {record['part']}: {', '.join(names)}",
      "",
      f"{record['date'][:10]}, {harness.machine(record)}.",
      "",
      Table(("", "asked", "measured"), rows(dict(record))).markdown(),
    ]
  return harness.page("serving.py --tabulate", "Serving", about, lines)


def main() -> None:
  parser = harness.parser(__doc__)
  add = parser.add_argument
  add("--part", action="append", choices=list(_PARTS), help="by default, all")
  add("--quick", action="store_true", help="everything small; keeps no record")
  add("--tabulate", action="store_true", help="write the page from the records")
  add("--checkpoint", default="checkpoints/ladder_m/lm_100", help="the model")
  add("--task", default="ladder_boolq", help="whose inputs are asked")
  add("--dtype", default="float32", help="of activations and weights")
  add("--processes", type=int, default=1, help="servers at the address")
  add("--requests", type=int, default=800, help="of a turn of mixed traffic")
  add("--prompts", type=int, default=10_000, help="of load and many")
  add("--seconds", type=float, default=600.0, help="of load")
  args = parser.parse_args()
  for name, (default, parts) in _OF_PARTS.items():
    if getattr(args, name) != default and not {*(args.part or _PARTS)} <= parts:
      parser.error(
        f"Expected --{name} with --part={' or '.join(sorted(parts))}."
      )
  logging.set_verbosity(logging.WARNING)
  compilation_cache.enable()
  for part in [] if args.tabulate else args.part or _PARTS:
    with tempfile.TemporaryDirectory(prefix="serving_") as folder:
      record = run(args, part, folder)
    for row in rows(record):
      print(f"{part}: {row[0]}: {row[2]}" + (f" ({row[1]})" * bool(row[1])))
    if not args.quick:
      packages = ("torch", "transformers", "peft", "uvicorn")
      harness.write(f"serving/{file_name(record)}", record, packages)
  if not args.quick:
    records = harness.records("serving")
    (harness.RESULTS / "serving.md").write_text(page(records))
    for record in (x for x in records if x["part"] == "growing"):
      name = f"serving_growth_{_model(record)}.png"
      growing.draw(record).savefig(harness.RESULTS / name, dpi=110)


def _model(record: Mapping[str, Any]) -> str:
  return record["checkpoint"].removeprefix("checkpoints/").replace("/", "_")


def _variant(record: Mapping[str, Any]) -> list[str]:
  """Returns the settings that differ from the flags' defaults."""
  number = record.get("processes", 1)
  names = record.get("dtype"), f"{number} processes" * (number > 1)
  return [*filter(None, names)]


def file_name(record: Mapping[str, Any]) -> str:
  """Returns the name of a record's file, without its suffix."""
  names = record["part"], _model(record), *_variant(record)
  return "_".join(names).replace(" ", "_")


if __name__ == "__main__":
  main()
