"""The page of compiled programs: a table for each method and program."""

from collections.abc import Iterator, Mapping, Sequence
import json
from typing import Any

import pandas as pd

from prompt_tuning.experiments.plan_table import Plan
from prompt_tuning.experiments.text_tables import Table

Record = Mapping[str, Any]
GIB = 2**30


def page(plan: Plan, records: Sequence[Record]) -> str:
  """Returns the page of the records, in Markdown.

  Args:
    plan: The table.
    records: As `plan_table.compile_cells` writes them.
  """
  # TPUs come first, and small models.
  places = sorted(plan.topologies, key=lambda x: (x[0] != "v", x))
  sizes = [*plan.sizes][::-1]
  records = sorted(
    records,
    key=lambda r: (places.index(r["topology"]), sizes.index(r["size"])),
  )
  frame: Any = pd.DataFrame(records).assign(
    attention=[r.get("attention", "") for r in records],
    row=list(map(_row, records)),
  )
  # A lower bound: device hours of a run of such steps.
  seconds = frame["seconds_bound"] * plan.steps
  frame["hours"] = seconds / 3600 * frame["devices"]
  plain = frame[frame["attention"] == ""]
  trained = plain[plain["program"] == "train"]
  about = plan.about.format(
    number=len(frame),
    versions="; ".join(sorted(set(frame["versions"].map(json.dumps)))),
    batch=plan.batch_size,
    quick=sum(r.get("is_quick", False) for r in records),
  )
  prompts = trained[trained["method"] == "prompt_tuning"]
  parts = [about, *_figure_1(plan, prompts)]
  for method, label in plan.methods.items():
    own = plain[plain["method"] == method]
    if own.empty:
      continue
    hours = _hours(plan, trained[trained["method"] == method])
    parts += [f"## {label}\n", hours]
    for program, what in plan.programs.items():
      rows = own["row"][own["program"] == program]
      if len(rows):
        table = _program_table(list(rows))
        parts.append(f"### {label}: {what}\n\n{table}")
  parts += _kernels(frame, plain)
  return "\n".join(parts).rstrip("\n") + "\n"


def _hours(plan: Plan, trained: Any) -> str:
  """Returns a table of the least hours of a run, by topology and size."""
  compiled = set(trained["size"])
  sizes = [x for x in [*plan.sizes][::-1] if x in compiled]
  texts = trained["hours"].map("{:.3g}".format).where(trained["fits"], "no")
  table = trained.assign(text=texts).pivot_table(
    "text", ["topology", "devices"], "size", "first", sort=False
  )
  table = table.reindex(columns=sizes).fillna("").reset_index().astype(str)
  return (
    f"Lower bounds on the device hours of {plan.steps:,} such steps (no: does "
    "not fit; empty: not compiled):\n\n"
    f"{Table(['On', 'Devices', *sizes], table.values.tolist()).markdown()}"
  )


def _figure_1(plan: Plan, trained: Any) -> Iterator[str]:
  """Yields the lines on the hours of the prompts of the paper's Figure 1."""
  runs = plan.runs_of_a_size
  yield (
    "## The paper's Figure 1, by these programs\n\n"
    f"Each size needs {runs} prompts (eight tasks, three seeds) of "
    f"{plan.steps:,} steps with inputs of 512 tokens. These programs compute "
    "activations twice, so programs that keep them may take fewer hours. "
    "Evaluation is not counted. On the paper's own devices, two to a chip:\n"
  )
  fitting = trained[trained["fits"]]
  own = fitting[fitting["size"].map(plan.paper.get) == fitting["topology"]]
  rows = [
    [
      *(r["size"], r["topology"], f"{r['hours'] / r['devices']:.3g}"),
      f"{r['hours']:.3g}",
      *(f"{r['hours'] * runs / n:,.0f}" for n in (1, 2)),
    ]
    for r in own.to_dict("records")
  ]
  if len(own) == len(plan.paper):
    total = own["hours"].sum() * runs
    rows.append(["all", "", "", "", f"{total:,.0f}", f"{total / 2:,.0f}"])
  header = ["Size", "On", "Hours of a run", "Device hours of a run"]
  header += ["of all runs", "Chip hours of all runs"]
  yield Table(header, rows, left=2).markdown()
  others = []
  for topology, found in fitting.groupby("topology", sort=False):
    found = found[found["size"].isin(plan.paper)]
    if len(found) == len(plan.paper):
      hours, devices = found["hours"].sum() * runs, found["devices"].iloc[0]
      numbers = (f"{hours:,.0f}", f"{hours / devices:,.0f}")
      others.append([topology, str(devices), *numbers])
  if others:
    yield "All five sizes on one kind of device:\n"
    header = ["On", "Devices", "Device hours", "Hours, one run after the other"]
    yield Table(header, others).markdown()


def _kernels(frame: Any, plain: Any) -> Iterator[str]:
  """Yields the memory of kernels of attention beside that of the plain form."""
  key = ["size", "method", "topology", "program"]
  pairs = frame[frame["attention"] != ""].merge(
    plain[[*key, "temporaries"]], on=key, suffixes=("", "_before")
  )
  rows = [
    [
      *(r["size"], r["method"], r["topology"], f"`{r['attention']}`"),
      ", ".join(f"`{x}`" for x in r["kernels"] or ["?"]),
      *(f"{r[x] / GIB:.2f}" for x in ("temporaries", "temporaries_before")),
    ]
    for r in pairs.to_dict("records")
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
  return Table(
    names, [[row[x] for x in names] for row in rows], texts
  ).markdown()


def _row(r: Record) -> dict[str, str]:
  """Returns column -> text for a record."""
  peak = "?" if r["peak"] is None else f"{r['peak'] / GIB:.2f}"
  exchanged = "; ".join(
    f"{times} {kind}, {size / 1e9:.2f} GB"
    for kind, (times, size) in sorted((r["collectives"] or {}).items())
  )
  if r["collectives"] is None:  # Recorded before the count was corrected.
    exchanged = "?"
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


# Columns that are left out where they say this of all.
_UNSAID = {
  "Temporaries": "0.00",
  "Bound, s": "",
  "TFLOP a device": "0",
  "Exchanged a step": "none",
  "Attention": "",
  "Microbatches": "1",
}
