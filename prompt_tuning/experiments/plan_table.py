"""The cells of the table of plans: T5 1.1's sizes, methods and devices.

Each record is written to a JSON file at once, so that a stopped command can
resume; `plan_page` needs only these files.
"""

from collections.abc import Collection, Iterator, Sequence
import dataclasses
import itertools
import json
import pathlib
from typing import Any

from t5x.files import parsing, safe_files
from t5x.planning import costs, programs, targets
from t5x.runs import records

# Parameters of the base models.
SIZES = {
  "xxl": 11_135_332_352,
  "xl": 2_849_757_184,
  "large": 783_150_080,
  "base": 247_577_856,
  "small": 76_961_152,
}
METHODS = {
  "prompt_tuning": "Prompt tuning",
  "lora": "LoRA",
  "model_tuning": "Model tuning",
}
PROGRAMS = {
  "train": "a training step",
  "evaluate": "greedy evaluation of a batch",
  "restore": "restoring: optimizer and weights side by side",
}
# Common name -> the compilers' name. The paper used 4 chips of TPU v2 up to
# Base, and 16 of v3 above.
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
# Topologies that are also compiled with an attention kernel.
KERNELS = {"v5e-16": "flash", "1 H100": "cudnn"}
# As in the paper's experiments (appendix A).
BATCH_SIZE = 32
STEPS = 30_000
# The share of a device's memory for the weights.
_SHARE = 0.25
_PACKAGES = ("jax", "jaxlib", "flax", "libtpu", "jax-cuda12-pjrt")


@dataclasses.dataclass(frozen=True)
class Cell:
  """A command of the table.

  Attributes:
    size: Size of T5 1.1.
    method: Name of a recipe.
    topology: Key of `TOPOLOGIES`.
    attention: An attention kernel, or "".
  """

  size: str
  method: str
  topology: str
  attention: str = ""

  def bindings(self, devices: int, memory: float) -> list[str]:
    """Returns settings by a rule: as few devices as possible share a model.

    Args:
      devices: Number of devices.
      memory: Memory of a device, bytes.
    """
    # Weights in bfloat16; or in float32, with their gradients.
    size = SIZES[self.size] * (8 if self.method == "model_tuning" else 2)
    splits = [2**i for i in range(devices.bit_length()) if 2**i <= devices]
    even = [x for x in splits if BATCH_SIZE % (devices // x) == 0]
    share = next((x for x in even if size / x <= _SHARE * memory), even[-1])
    # Many examples on few devices are processed in parts.
    rows = BATCH_SIZE * share // devices
    heavy = self.size in ("xxl", "xl", "large")
    is_tight = heavy and share == 1 and memory < 90 * 2**30
    parts = max(rows // 8, 1) if is_tight else 1
    return [
      f"partitioning.PjitPartitioner.num_partitions = {share}",
      "PARAMETER_DTYPE = 'bfloat16'",
      "network.T5Config.scan_layers = True",
      "network.T5Config.remat = True",
      f"NUM_MICROBATCHES = {parts if parts > 1 else None}",
      f"BATCH_SIZE = {BATCH_SIZE}",
      *(
        f"network.T5Config.attention_kernel = '{x}'"
        for x in [self.attention]
        if x
      ),
    ]


def cells() -> Iterator[Cell]:
  """Yields all commands, starting with the largest models."""
  for axes in itertools.product(METHODS, SIZES, TOPOLOGIES):
    yield Cell(axes[1], axes[0], axes[2])
  for (topology, kernel), size in itertools.product(KERNELS.items(), SIZES):
    yield Cell(size, "prompt_tuning", topology, kernel)


def select(
  kind: str, attention: str = "", **names: Sequence[str] | None
) -> list[Cell]:
  """Returns the cells of the table with the given values.

  Args:
    kind: Of the devices, "tpu" or "gpu".
    attention: A kernel of attention, or "".
    **names: "methods", "sizes" and "topologies", each a list, or None for all.

  Raises:
    ValueError: if the table has no such value, or no such cell.
  """
  known = {"methods": METHODS, "sizes": SIZES, "topologies": TOPOLOGIES}
  wanted = {k: check_names(k, names.get(k), x) for k, x in known.items()}
  found = [
    cell
    for cell in cells()
    if ("100" in cell.topology) == (kind == "gpu")
    and cell.method in wanted["methods"]
    and cell.size in wanted["sizes"]
    and cell.topology in wanted["topologies"]
    and cell.attention == attention
  ]
  if not found:
    raise ValueError("The table has no such cell; see the values of the flags.")
  return found


def check_names(
  flag: str, given: Sequence[str] | None, known: Collection[str]
) -> list[str]:
  """Returns the list of a flag, by default all that is known.

  Raises:
    ValueError: if it has an unknown name.
  """
  if unknown := [x for x in given or () if x not in known]:
    raise ValueError(
      f"--{flag}: expected some of {', '.join(known)}, got {', '.join(unknown)}"
    )
  return list(given or known)


def compile_cells(
  path: str, chosen: Sequence[Cell], wanted: Sequence[str]
) -> None:
  """Compiles the programs that a file of records lacks, and adds them to it.

  Args:
    path: The JSON file.
    chosen: The cells.
    wanted: The programs of each cell.
  """
  key = ("size", "method", "topology", "attention", "program")
  done = {tuple(r.get(x, "") for x in key) for r in read([path])}
  for cell in chosen:
    missing = [x for x in wanted if (*dataclasses.astuple(cell), x) not in done]
    if not missing:
      continue
    target = targets.find(TOPOLOGIES[cell.topology])
    bindings = cell.bindings(len(target.devices), target.memory)
    files = [
      f"gin/models/t5_1_1_{cell.size}.gin",
      f"gin/recipes/{cell.method}.gin",
    ]
    with programs.read_command(files, bindings, target.devices) as command:
      for program in command.programs(missing):
        found = costs.estimate(program, target)
        versions = records.environment(_PACKAGES)["versions"]
        record = {
          **dataclasses.asdict(cell),
          "flags": bindings,
          **{
            # Without digits that do not matter.
            name: float(f"{x:.5g}") if isinstance(x, float) else x
            for name, x in dataclasses.asdict(found).items()
          },
          "target": found.topology,
          "topology": cell.topology,
          "fits": found.fits,
          "versions": {x: versions[x] for x in _PACKAGES if x in versions},
        }
        # Read again, as another process may have added records meanwhile.
        every = [*read([path]), record]
        lines = ",\n".join(json.dumps(x, sort_keys=True) for x in every)
        safe_files.write(path, f"[\n{lines}\n]\n")
        print(
          cell, found.program, found.fits, found.compile_seconds, flush=True
        )


def read(paths: Sequence[str]) -> list[dict[str, Any]]:
  """Reads records; a missing file has no records."""
  found = []
  for path in map(pathlib.Path, paths):
    if path.exists():
      with parsing.of(path, "a list of plans"):
        found += [dict(record) for record in json.loads(path.read_bytes())]
  return found
