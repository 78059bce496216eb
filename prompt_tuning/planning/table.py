"""The table of programs: T5 1.1's sizes, methods, and what they run on.

Records are kept in a JSON file as they come, so that a stopped run goes on; the
table is made of them alone.
"""

from collections.abc import Iterator, Mapping, Sequence
import dataclasses
import importlib.metadata
import json
import pathlib
from typing import Any

from prompt_tuning import safe_files
from prompt_tuning.planning import measures, programs, targets

# Parameters of the base models.
SIZES = {
  "xxl": 11_135_332_352,
  "xl": 2_849_757_184,
  "large": 783_150_080,
  "base": 247_577_856,
  "small": 76_961_152,
}
METHODS = ("prompt_tuning", "lora", "model_tuning")
PROGRAMS = ("train", "evaluate", "restore")
# What people call them -> how compilers do. The paper has 4 chips of TPU
# v2 up to Base, 16 of v3 above.
TOPOLOGIES = {
  "v3-32": "v3:4x4",
  "v5e-16": "v5e:4x4",
  "8 H100": "h100x8",
  "1 H100": "h100x1",
  "v3-8": "v3:2x2",
  "8 A100-80": "a100x8",
  "1 A100-80": "a100x1",
  "v4-8": "v4:2x2x1",
  "v5p-8": "v5p:2x2x1",
  "v6e-8": "v6e:2x4",
  "v5e-64": "v5e:8x8",
  "v2-8": "v2:2x2",
}
# As in the paper's experiments (section 3.1).
BATCH_SIZE = 32
STEPS = 30_000
# Its devices, for Figure 1: eight tasks, three seeds. A device is a core there,
# of which a chip has two.
PAPERS = {
  "small": "v2-8",
  "base": "v2-8",
  "large": "v3-32",
  "xl": "v3-32",
  "xxl": "v3-32",
}
_RUNS_OF_A_SIZE = 24
# The part of a device's memory that what is frozen, or trains, may take.
_SHARE = 0.25
_PACKAGES = ("jax", "jaxlib", "flax", "libtpu", "jax-cuda12-pjrt")


@dataclasses.dataclass(frozen=True)
class Cell:
  """A command of the table.

  Attributes:
    size: Of T5 1.1.
    method: A recipe.
    topology: What people call it.
  """

  size: str
  method: str
  topology: str

  @property
  def gin_files(self) -> list[str]:
    return [
      f"gin/models/t5_1_1_{self.size}.gin",
      f"gin/recipes/{self.method}.gin",
    ]

  def bindings(self, devices: int, memory: float) -> list[str]:
    """Returns settings by a rule: as few devices share a model as hold it.

    Args:
      devices: Of the topology.
      memory: Of a device, bytes.
    """
    # Weights in bfloat16; or in float32, with their gradients.
    size = SIZES[self.size] * (8 if self.method == "model_tuning" else 2)
    splits = [2**i for i in range(devices.bit_length()) if 2**i <= devices]
    even = [x for x in splits if BATCH_SIZE % (devices // x) == 0]
    share = next((x for x in even if size / x <= _SHARE * memory), even[-1])
    # Activations of many examples on few devices: in parts.
    rows = BATCH_SIZE * share // devices
    heavy = self.size in ("xxl", "xl", "large")
    parts = max(rows // 8, 1) if heavy and memory / share < 90 * 2**30 else 1
    parts = parts if share == 1 else 1
    return [
      f"partitioning.PjitPartitioner.num_partitions = {share}",
      "PARAMETER_DTYPE = 'bfloat16'",
      "network.T5Config.scan_layers = True",
      "network.T5Config.remat = True",
      f"NUM_MICROBATCHES = {parts if parts > 1 else None}",
      f"BATCH_SIZE = {BATCH_SIZE}",
    ]


def cells() -> Iterator[Cell]:
  """Yields all commands, the largest models on what matters most first."""
  for method in METHODS:
    for size in SIZES:
      for topology in TOPOLOGIES:
        yield Cell(size, method, topology)


def compile_cells(path: str, chosen: Sequence[Cell]) -> None:
  """Compiles what a file of records lacks, and adds it to the file.

  Args:
    path: The JSON file.
    chosen: Which commands.
  """
  key = ("size", "method", "topology", "program")
  done = {tuple(r[x] for x in key) for r in read([path])}
  for cell in chosen:
    missing = [
      x for x in PROGRAMS if (*dataclasses.astuple(cell), x) not in done
    ]
    if not missing:
      continue
    target = targets.find(TOPOLOGIES[cell.topology])
    bindings = cell.bindings(len(target.devices), target.memory)
    for program in programs.programs_of(
      cell.gin_files, bindings, target.devices, missing
    ):
      found = measures.measure(program, target)
      record = {
        **dataclasses.asdict(cell),
        "flags": bindings,
        **_short(dataclasses.asdict(found)),
        "target": found.topology,
        "topology": cell.topology,
        "fits": found.fits,
        "versions": _versions(),
      }
      # Read again: another program may have added some meanwhile.
      safe_files.write(path, _text([*read([path]), record]))
      print(cell, found.program, found.fits, found.compile_seconds, flush=True)


def read(paths: Sequence[str]) -> list[dict[str, Any]]:
  """Reads records; those of a file that is not there are none."""
  return [
    record
    for path in paths
    if pathlib.Path(path).exists()
    for record in json.loads(pathlib.Path(path).read_text())
  ]


def _text(records: Sequence[Mapping[str, Any]]) -> str:
  lines = ",\n".join(json.dumps(record, sort_keys=True) for record in records)
  return f"[\n{lines}\n]\n"


def _short(measured: dict[str, Any]) -> dict[str, Any]:
  """Rounds what no reader compares to the last digit."""
  return {
    name: float(f"{x:.5g}") if isinstance(x, float) else x
    for name, x in measured.items()
  }


def _versions() -> dict[str, str]:
  found = {}
  for package in _PACKAGES:
    try:
      found[package] = importlib.metadata.version(package)
    except importlib.metadata.PackageNotFoundError:
      continue
  return found


def page(records: Sequence[Mapping[str, Any]]) -> str:
  """Returns the page of the records, in Markdown.

  Args:
    records: As `compile_cells` writes them.
  """
  order = {name: i for i, name in enumerate((*METHODS, *SIZES, *TOPOLOGIES))}
  records = sorted(
    records,
    key=lambda r: [order[r[x]] for x in ("method", "size", "topology")],
  )
  versions = sorted({json.dumps(r["versions"]) for r in records})
  lines = [
    _ABOUT.format(number=len(records), versions="; ".join(versions)),
    "## What a run takes at the least",
    "",
    f"{STEPS:,} steps of training, by the bound of a step.",
    "",
    "| Size | Method | On | Seconds a step | Hours | Device hours |",
    "| --- | --- | --- | ---: | ---: | ---: |",
  ]
  for r in records:
    if r["program"] == "train" and r["fits"]:
      bound = r["seconds_bound"]
      hours = bound * STEPS / 3600
      lines.append(
        f"| {r['size']} | {r['method']} | {r['topology']} | {bound:.3g} | "
        f"{hours:.3g} | {hours * r['devices']:.3g} |"
      )
  lines += ["", *_figure_1(records)]
  lines += ["", "## Programs", "", _HEADER, _RULE, *map(_row, records)]
  return "\n".join(lines) + "\n"


def _figure_1(records: Sequence[Mapping[str, Any]]) -> Iterator[str]:
  """Yields the lines on what the prompts of the paper's Figure 1 take."""
  yield from (
    "## The paper's Figure 1 on its own devices, at the least",
    "",
    f"Prompt tuning: eight tasks, three seeds, so {_RUNS_OF_A_SIZE} runs of "
    f"{STEPS:,} steps a size. Evaluation is not in it.",
    "",
    "| Size | On | Hours of a run | Chip hours of a run | of all runs |",
    "| --- | --- | ---: | ---: | ---: |",
  )
  for size, topology in PAPERS.items():
    for r in records:
      if (r["size"], r["method"], r["topology"], r["program"]) == (
        *(size, "prompt_tuning", topology, "train"),
      ):
        hours = r["seconds_bound"] * STEPS / 3600
        chip_hours = hours * r["devices"] / 2
        yield (
          f"| {size} | {topology} | {hours:.3g} | {chip_hours:.3g} | "
          f"{chip_hours * _RUNS_OF_A_SIZE:,.0f} |"
        )


def _row(r: Mapping[str, Any]) -> str:
  gib = 2**30
  peak = "?" if r["peak"] is None else f"{r['peak'] / gib:.2f}"
  exchanged = "; ".join(
    f"{times} {kind}, {size / 1e9:.2f} GB"
    for kind, (times, size) in sorted(r["collectives"].items())
  )
  flags = ", ".join(
    binding.replace("partitioning.PjitPartitioner.", "").replace(
      "network.T5Config.", ""
    )
    for binding in r["flags"]
    if not binding.endswith("None")
  )
  bound = r["seconds_bound"]
  cells = [
    r["size"],
    r["method"],
    r["program"],
    f"{r['topology']} (`{r['target']}`)",
    "yes" if r["fits"] else "no",
    f"{peak} of {r['memory'] / gib:.4g}",
    f"{r['weights'] / gib:.2f}",
    f"{r['temporaries'] / gib:.2f}",
    f"{r['flops'] / 1e12:.3g}",
    "" if bound is None else f"{bound:.3g}",
    exchanged or "none",
    f"`{flags}`",
  ]
  return "| " + " | ".join(cells) + " |"


_ABOUT = """# What fits where

Generated by `scripts/plan_table.py` from `results/plan_*.json`: {number}
programs, compiled for devices that were not there, each by its own platform's
compiler. **Nothing here was run.** Memory is what the compiler says. A bound is
the greater of two: matrix products over the peak of the device, and what it has
to read over its memory's bandwidth, both of
`prompt_tuning/planning/targets/chips.toml`. No step is faster; real ones are
slower.
What devices exchange is counted, not timed. Batches are of 32, inputs of 512
and a prompt of 100, targets of 16; settings follow a rule (`Cell.bindings`),
not a search.

Versions: {versions}.
"""
_HEADER = (
  "| Size | Method | Program | On | Fits | GiB a device | Weights | "
  "Temporaries | TFLOP a device | Bound, s | Exchanged a step | Settings |"
)
_RULE = "|" + " --- |" * 5 + " ---: |" * 5 + " --- |" * 2
