"""The page of compiled programs: a table for each method and program."""

from collections.abc import Iterator, Mapping, Sequence
import json
from typing import Any

import pandas as pd

from prompt_tuning.experiments.plan_table import (
  BATCH_SIZE,
  METHODS,
  PROGRAMS,
  SIZES,
  STEPS,
  TOPOLOGIES,
)
from prompt_tuning.experiments.text_tables import Table

Record = Mapping[str, Any]
GIB = 2**30
# The paper's devices (appendix A), for Figure 1: eight tasks, three seeds.
PAPERS = {
  "small": "v2-8",
  "base": "v2-8",
  "large": "v3-32",
  "xl": "v3-32",
  "xxl": "v3-32",
}
RUNS_OF_A_SIZE = 24
_SMALL = list(SIZES)[::-1]
# TPUs come first.
_PLACES = sorted(TOPOLOGIES, key=lambda x: (x[0] != "v", x))


def page(records: Sequence[Record]) -> str:
  """Returns the page of the records, in Markdown.

  Args:
    records: As `plan_table.compile_cells` writes them.
  """
  records = sorted(
    records,
    key=lambda r: (_PLACES.index(r["topology"]), _SMALL.index(r["size"])),
  )
  frame: Any = pd.DataFrame(records).assign(
    attention=[r.get("attention", "") for r in records],
    row=list(map(_row, records)),
  )
  # A lower bound: device hours of a run of such steps.
  frame["hours"] = frame["seconds_bound"] * STEPS / 3600 * frame["devices"]
  plain = frame[frame["attention"] == ""]
  trained = plain[plain["program"] == "train"]
  about = _ABOUT.format(
    number=len(frame),
    versions="; ".join(sorted(set(frame["versions"].map(json.dumps)))),
    batch=BATCH_SIZE,
    quick=sum(r.get("is_quick", False) for r in records),
  )
  parts = [about, *_figure_1(trained[trained["method"] == "prompt_tuning"])]
  for method, label in METHODS.items():
    own = plain[plain["method"] == method]
    if own.empty:
      continue
    hours = _hours(trained[trained["method"] == method])
    parts += [f"## {label}\n", hours]
    for program, what in PROGRAMS.items():
      rows = own["row"][own["program"] == program]
      if len(rows):
        table = _program_table(list(rows))
        parts.append(f"### {label}: {what}\n\n{table}")
  parts += _kernels(frame, plain)
  return "\n".join(parts).rstrip("\n") + "\n"


def _hours(trained: pd.DataFrame) -> str:
  """Returns a table of the least hours of a run, by topology and size."""
  texts = trained["hours"].map("{:.3g}".format).where(trained["fits"], "no")
  rows = []
  places: Any = trained.assign(text=texts).groupby(
    ["topology", "devices"], sort=False
  )
  for (topology, devices), own in places:
    found = dict(zip(own["size"], own["text"], strict=True))
    rows.append([topology, str(devices), *(found.get(x, "") for x in _SMALL)])
  return (
    f"Device hours of {STEPS:,} such steps, at the least (no: does not fit; "
    "empty: not compiled):\n\n"
    f"{Table(['On', 'Devices', *_SMALL], rows).markdown()}"
  )


def _figure_1(trained: pd.DataFrame) -> Iterator[str]:
  """Yields the lines on the hours of the prompts of the paper's Figure 1."""
  yield (
    "## The paper's Figure 1, by these programs\n\n"
    f"Its prompts: eight tasks, three seeds, so {RUNS_OF_A_SIZE} runs of "
    f"{STEPS:,} steps a size, of 512 inputs, with activations computed twice: "
    "what is asked for can take less. Evaluation is not in it. On the paper's "
    "own devices, of which a chip has two:\n"
  )
  fitting = trained[trained["fits"]]
  own = fitting[fitting["size"].map(PAPERS.get) == fitting["topology"]]
  rows = [
    [
      *(r["size"], r["topology"], f"{r['hours'] / r['devices']:.3g}"),
      f"{r['hours']:.3g}",
      *(f"{r['hours'] * RUNS_OF_A_SIZE / n:,.0f}" for n in (1, 2)),
    ]
    for r in own.to_dict("records")
  ]
  if len(own) == len(PAPERS):
    total = own["hours"].sum() * RUNS_OF_A_SIZE
    rows.append(["all", "", "", "", f"{total:,.0f}", f"{total / 2:,.0f}"])
  header = ["Size", "On", "Hours of a run", "Device hours of a run"]
  header += ["of all runs", "Chip hours of all runs"]
  yield Table(header, rows, left=2).markdown()
  others = []
  for topology in _PLACES:
    found = fitting[fitting["topology"] == topology]
    if set(found["size"]) == set(SIZES):
      hours = found["hours"].sum() * RUNS_OF_A_SIZE
      devices = found["devices"].iloc[0]
      numbers = (f"{hours:,.0f}", f"{hours / devices:,.0f}")
      others.append([topology, str(devices), *numbers])
  if others:
    yield "All five sizes on one kind of device:\n"
    header = ["On", "Devices", "Device hours", "Hours, one run after the other"]
    yield Table(header, others).markdown()


def _kernels(frame: pd.DataFrame, plain: pd.DataFrame) -> Iterator[str]:
  """Yields the memory of kernels of attention beside that of the plain form."""
  key = ["size", "method", "topology", "program"]
  pairs = frame[frame["attention"] != ""].merge(
    plain[[*key, "temporaries"]], on=key, suffixes=("", "_before")
  )
  rows = [
    [
      *(r.size_name, r.method, r.topology, f"`{r.attention}`"),
      ", ".join(f"`{x}`" for x in r.kernels or ["?"]),
      f"{r.temporaries / GIB:.2f}",
      f"{r.temporaries_before / GIB:.2f}",
    ]
    for r in pairs.rename(columns={"size": "size_name"}).itertuples()
  ]
  if rows:
    yield (
      "## Kernels of attention\n\n"
      "The same steps with `--gin.network.T5Config.attention_kernel`, which no "
      "gin file sets ([why](../docs/speed.md#fused-attention-kernels)). "
      "The calls are in the compiled program.\n"
    )
    header = ["Size", "Method", "On", "Kernel", "Calls", "Temporaries, GiB"]
    yield Table([*header, "Without it"], rows, left=5).markdown()


def _program_table(rows: Sequence[Mapping[str, str]]) -> str:
  """Returns a table of a program's records, without idle columns."""
  names = [
    name
    for name in rows[0]
    if name not in _UNSAID or any(r[name] != _UNSAID[name] for r in rows)
  ]
  texts = ("On", "Size", "Fits", "Exchanged a step", "Attention")
  rule = "|".join(" --- " if x in texts else " ---: " for x in names)
  table = Table(names, [[row[name] for name in names] for row in rows])
  head, _, *body = table.markdown().splitlines(keepends=True)
  return "".join([head, f"|{rule}|\n", *body])


def _row(r: Record) -> dict[str, str]:
  """Returns column -> text for a record."""
  peak = "?" if r["peak"] is None else f"{r['peak'] / GIB:.2f}"
  exchanged = (
    "?"  # Recorded before the count was corrected.
    if r["collectives"] is None
    else "; ".join(
      f"{times} {kind}, {size / 1e9:.2f} GB"
      for kind, (times, size) in sorted(r["collectives"].items())
    )
  )
  flags = dict(binding.split(" = ") for binding in r["flags"])
  flags = {name.rpartition(".")[2].lower(): x for name, x in flags.items()}
  parts = flags["num_microbatches"]
  # Older records have a bound for restoring too.
  bound = None if r["program"] == "restore" else r["seconds_bound"]
  return {
    "On": r["topology"],
    "Size": r["size"],
    "Fits": "yes" if r["fits"] else "**no**",
    "GiB a device": f"{peak} of {r['memory'] / GIB:.4g}",
    "Weights": f"{r['weights'] / GIB:.2f}",
    "Temporaries": f"{r['temporaries'] / GIB:.2f}",
    "TFLOP a device": f"{r['flops'] / 1e12:.3g}",
    "Bound, s": "" if bound is None else f"{bound:.3g}",
    "Exchanged a step": exchanged or "none",
    "Attention": ""
    if r["program"] == "restore"
    else ", ".join(["?"] if r["kernels"] is None else r["kernels"]) or "plain",
    "Partitions": flags["num_partitions"],
    "Microbatches": "1"
    if r["program"] != "train" or parts == "None"
    else parts,
  }


_ABOUT = """# What fits where

Generated by `prompt-tuning plan-table` from `results/plan_*.json`: {number}
programs, compiled for devices that were not there, each by its own platform's
compiler. **Nothing here was run.** Memory is what the compiler says. A bound is
the greater of two: matrix products over the peak of the device, and what it has
to read over its memory's bandwidth, both of
`runtime/t5x/planning/targets/chips.toml`. No step of the program is faster;
real ones are slower. That of an evaluation is of answers of all 16 tokens. What
devices exchange is counted, not timed; "?" is where the count was wrong, and
the program was not compiled again.

**A bound is its program's, not its task's.** All of these have inputs of 512,
and steps of training compute activations twice (`remat`). Shorter inputs, or no
rematerialisation where that fits, take less: XL's step of prompts on an H100 at
least 0.119 s without it, 0.167 with it (docs/accelerators.md). Evaluations take
more where a split has longer inputs, which nothing cuts: of BoolQ's validation
split 1,138 tokens.

Batches are of {batch}, inputs of 512 and a prompt of 100, targets of 16.
Settings follow a rule (`Cell.bindings`), not a search. As flags:
`--gin.NUM_PARTITIONS` and `--gin.NUM_MICROBATCHES` (1: `None`) of the row and,
for all, `--gin.PARAMETER_DTYPE="'bfloat16'"` (frozen weights),
`--gin.network.T5Config.scan_layers=True`, `--gin.network.T5Config.remat=True`.
TPUs' compiler made its least effort for {quick} programs, which takes half the
time and gives the same memory but for the code's (docs/accelerators.md).
Attention is plain where no kernel is in the program: all scores at once.

Versions: {versions}.
"""
# Columns that are left out where they say this of all.
_UNSAID = {
  "Temporaries": "0.00",
  "Bound, s": "",
  "TFLOP a device": "0",
  "Exchanged a step": "none",
  "Attention": "",
  "Microbatches": "1",
}
