"""The page of what was compiled: a table for each method and program."""

from collections.abc import Iterator, Mapping, Sequence
import json
from typing import Any

from prompt_tuning.experiments.plan_table import (
  BATCH_SIZE,
  METHODS,
  PROGRAMS,
  SIZES,
  STEPS,
  TOPOLOGIES,
)

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
_METHODS = {
  "prompt_tuning": "Prompt tuning",
  "lora": "LoRA",
  "model_tuning": "Model tuning",
}
_PROGRAMS = {
  "train": "a training step",
  "evaluate": "greedy evaluation of a batch",
  "restore": "restoring: optimizer and weights side by side",
}


def page(records: Sequence[Record]) -> str:
  """Returns the page of the records, in Markdown.

  Args:
    records: As `table.compile_cells` writes them.
  """
  records = sorted(
    records,
    key=lambda r: (_PLACES.index(r["topology"]), _SMALL.index(r["size"])),
  )
  plain = [r for r in records if not r.get("attention")]
  versions = sorted({json.dumps(r["versions"]) for r in records})
  lines = [
    _ABOUT.format(
      number=len(records),
      versions="; ".join(versions),
      batch=BATCH_SIZE,
      quick=sum(r.get("is_quick", False) for r in records),
    ),
    *_figure_1(plain),
  ]
  for method in METHODS:
    some = [r for r in plain if r["method"] == method]
    if not some:
      continue
    lines += [f"## {_METHODS[method]}", "", *_hours(some)]
    for program in PROGRAMS:
      title = f"### {_METHODS[method]}: {_PROGRAMS[program]}"
      lines += _table(title, [r for r in some if r["program"] == program])
  lines += _kernels(records)
  return "\n".join(lines).rstrip("\n") + "\n"


def _by_cell(
  records: Sequence[Record], program: str = "train"
) -> dict[tuple[str, str], Record]:
  """(size, topology) -> record of a program."""
  return {
    (r["size"], r["topology"]): r for r in records if r["program"] == program
  }


def _device_hours(record: Record) -> float:
  """Of a run of such steps, at the least."""
  return record["seconds_bound"] * STEPS / 3600 * record["devices"]


def _hours(records: Sequence[Record]) -> Iterator[str]:
  """Yields a table of topologies and sizes: what a run takes at the least."""
  by_cell = _by_cell(records)
  yield from (
    f"Device hours of {STEPS:,} such steps, at the least (no: does not fit; "
    "empty: not compiled):",
    "",
    f"| On | Devices | {' | '.join(_SMALL)} |",
    f"| --- | ---: |{' ---: |' * len(_SMALL)}",
  )
  for topology in _PLACES:
    found = [by_cell.get((size, topology)) for size in _SMALL]
    known = next((r for r in found if r), None)
    if known is None:
      continue
    cells = [
      "" if r is None else f"{_device_hours(r):.3g}" if r["fits"] else "no"
      for r in found
    ]
    yield f"| {topology} | {known['devices']} | {' | '.join(cells)} |"
  yield ""


def _figure_1(records: Sequence[Record]) -> Iterator[str]:
  """Yields the lines on what the prompts of the paper's Figure 1 take."""
  by_cell = _by_cell([r for r in records if r["method"] == "prompt_tuning"])
  yield from (
    "## The paper's Figure 1, by these programs",
    "",
    f"Its prompts: eight tasks, three seeds, so {RUNS_OF_A_SIZE} runs of "
    f"{STEPS:,} steps a size, of 512 inputs, with activations computed twice: "
    "what is asked for can take less. Evaluation is not in it. On the paper's "
    "own devices, of which a chip has two:",
    "",
    "| Size | On | Hours of a run | Device hours of a run | of all runs | "
    "Chip hours of all runs |",
    "| --- | --- | ---: | ---: | ---: | ---: |",
  )
  total, sizes = 0.0, 0
  for size, topology in PAPERS.items():
    record = by_cell.get((size, topology))
    if record and record["fits"]:
      hours = _device_hours(record)
      total, sizes = total + hours * RUNS_OF_A_SIZE, sizes + 1
      yield (
        f"| {size} | {topology} | {hours / record['devices']:.3g} | "
        f"{hours:.3g} | {hours * RUNS_OF_A_SIZE:,.0f} | "
        f"{hours * RUNS_OF_A_SIZE / 2:,.0f} |"
      )
  if sizes == len(PAPERS):
    yield f"| all |  |  |  | {total:,.0f} | {total / 2:,.0f} |"
  others = []
  for topology in _PLACES:
    found = [by_cell.get((size, topology)) for size in SIZES]
    if all(r and r["fits"] for r in found):
      hours = sum(_device_hours(r) for r in found if r)
      devices = found[0]["devices"] if found[0] else 0
      hours *= RUNS_OF_A_SIZE
      others.append(
        f"| {topology} | {devices} | {hours:,.0f} | {hours / devices:,.0f} |"
      )
  if others:
    yield from (
      "",
      "All five sizes on one kind of device:",
      "",
      "| On | Devices | Device hours | Hours, one run after the other |",
      "| --- | ---: | ---: | ---: |",
      *others,
    )
  yield ""


def _kernels(records: Sequence[Record]) -> Iterator[str]:
  """Yields what kernels of attention take beside the plain form."""
  plain = {
    (r["size"], r["method"], r["topology"], r["program"]): r
    for r in records
    if not r.get("attention")
  }
  rows = []
  for r in records:
    key = (r["size"], r["method"], r["topology"], r["program"])
    if r.get("attention") and key in plain:
      before = plain[key]
      rows.append(
        f"| {r['size']} | {r['method']} | {r['topology']} | "
        f"`{r['attention']}` | {', '.join(f'`{x}`' for x in r['kernels'])} | "
        f"{r['temporaries'] / GIB:.2f} | {before['temporaries'] / GIB:.2f} |"
      )
  if rows:
    yield from (
      "## Kernels of attention",
      "",
      "The same steps with `--gin.network.T5Config.attention_kernel`, which no "
      "gin file sets ([why](../docs/speed.md#fused-kernels-of-accelerators)). "
      "The calls are in the compiled program.",
      "",
      "| Size | Method | On | Kernel | Calls | Temporaries, GiB | Without it |",
      "| --- | --- | --- | --- | --- | ---: | ---: |",
      *rows,
    )


def _table(title: str, records: Sequence[Record]) -> Iterator[str]:
  """Yields a table of one program's records, with what tells them apart."""
  rows = [_row(r) for r in records]
  if not rows:
    return
  names = [
    name
    for name in rows[0]
    if name not in _UNSAID or any(r[name] != _UNSAID[name] for r in rows)
  ]
  texts = ("On", "Size", "Fits", "Exchanged a step", "Attention")
  yield from (
    title,
    "",
    f"| {' | '.join(names)} |",
    f"|{'|'.join(' --- ' if x in texts else ' ---: ' for x in names)}|",
  )
  for row in rows:
    yield f"| {' | '.join(row[name] for name in names)} |"
  yield ""


def _row(r: Record) -> dict[str, str]:
  """Column -> what it says of a record."""
  peak = "?" if r["peak"] is None else f"{r['peak'] / GIB:.2f}"
  exchanged = (
    "?"  # Of before a mend of the count.
    if r["collectives"] is None
    else "; ".join(
      f"{times} {kind}, {size / 1e9:.2f} GB"
      for kind, (times, size) in sorted(r["collectives"].items())
    )
  )
  flags = dict(binding.split(" = ") for binding in r["flags"])
  flags = {name.rpartition(".")[2].lower(): x for name, x in flags.items()}
  parts = flags["num_microbatches"]
  # Records of before a mend have one of restoring.
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
    else ", ".join(r["kernels"]) or "plain",
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
