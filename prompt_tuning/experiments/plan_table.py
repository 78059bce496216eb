"""The cells of the table of plans: sizes of models, methods and devices.

Each record is written to a JSON file at once, so that a stopped command can
resume; `plan_page` needs only these files and `configs/plan.toml`.
"""

from collections.abc import Sequence
import dataclasses
import json
import pathlib
from typing import Any

from prompt_tuning.experiments.cells import Strict
from t5x.files import parsing, safe_files
from t5x.planning import costs, programs, targets
from t5x.runs import records

# The share of a device's memory for the weights.
_SHARE = 0.25
_PACKAGES = ("jax", "jaxlib", "flax", "libtpu", "jax-cuda12-pjrt")


@dataclasses.dataclass(frozen=True)
class Cell:
  """A command of the table.

  Attributes:
    size: Size of T5 1.1, or another model.
    method: Name of a recipe.
    topology: Key of `Plan.topologies`.
    attention: An attention kernel, or "".
  """

  size: str
  method: str
  topology: str
  attention: str = ""


class Plan(Strict):
  """The table, as `configs/plan.toml` describes it.

  Attributes:
    about: The page's beginning. Markdown, with names in braces.
    batch_size: Examples of a step.
    steps: Steps of a run.
    runs_of_a_size: Runs of each size in the paper's Figure 1.
    sizes: Size -> parameters of the base model, the largest first.
    configurations: For models other than T5 1.1, the gin name of the function
      that makes the network's configuration. The gin file has the model's name.
    methods: Name of a recipe -> label.
    programs: Name -> label.
    topologies: Common name -> the compilers' name.
    paper: Size -> the topology that the paper trained it on.
    kernels: Topology -> the attention kernel that it is compiled with too.
  """

  about: str
  batch_size: int
  steps: int
  runs_of_a_size: int
  sizes: dict[str, int]
  configurations: dict[str, str]
  methods: dict[str, str]
  programs: dict[str, str]
  topologies: dict[str, str]
  paper: dict[str, str]
  kernels: dict[str, str]

  def model_file(self, size: str) -> str:
    """Returns the gin file of a model."""
    prefix = "" if size in self.configurations else "t5_1_1_"
    return f"gin/models/{prefix}{size}.gin"

  def bindings(self, cell: Cell, devices: int, memory: float) -> list[str]:
    """Returns settings by a rule: as few devices as possible share a model.

    Args:
      cell: The cell.
      devices: Number of devices.
      memory: Memory of a device, bytes.
    """
    # Weights in bfloat16; or in float32, with their gradients.
    size = self.sizes[cell.size] * (8 if cell.method == "model_tuning" else 2)
    splits = [2**i for i in range(devices.bit_length()) if 2**i <= devices]
    even = [x for x in splits if self.batch_size % (devices // x) == 0]
    share = next((x for x in even if size / x <= _SHARE * memory), even[-1])
    # Many examples on few devices are processed in parts.
    rows = self.batch_size * share // devices
    heavy = self.sizes[cell.size] >= self.sizes["large"]
    is_tight = heavy and share == 1 and memory < 90 * 2**30
    parts = max(rows // 8, 1) if is_tight else 1
    config = self.configurations.get(cell.size, "network.T5Config")
    kernel = f"{config}.attention_kernel = '{cell.attention}'"
    return [
      f"partitioning.PjitPartitioner.num_partitions = {share}",
      "PARAMETER_DTYPE = 'bfloat16'",
      f"{config}.scan_layers = True",
      f"{config}.remat = True",
      f"NUM_MICROBATCHES = {parts if parts > 1 else None}",
      f"BATCH_SIZE = {self.batch_size}",
      *([kernel] if cell.attention else ()),
    ]

  def cells(self) -> list[Cell]:
    """Returns all commands, starting with the largest models."""
    return [
      *(
        Cell(size, method, topology)
        for method in self.methods
        for size in self.sizes
        for topology in self.topologies
      ),
      *(
        Cell(size, "prompt_tuning", topology, kernel)
        for topology, kernel in self.kernels.items()
        for size in self.sizes
      ),
    ]

  def select(self, kind: str, attention: str = "") -> list[Cell]:
    """Returns the cells of the table with the given values.

    Args:
      kind: The kind of devices, "tpu" or "gpu".
      attention: A kernel of attention, or "".

    Raises:
      ValueError: if the table has no such cell.
    """
    found = [
      cell
      for cell in self.cells()
      if ("100" in cell.topology) == (kind == "gpu")
      and cell.attention == attention
    ]
    if not found:
      raise ValueError(
        "The table has no such cell; see the values of the flags."
      )
    return found


def compile_cells(
  plan: Plan, path: pathlib.Path, chosen: Sequence[Cell]
) -> None:
  """Compiles the programs that a file of records lacks, and adds them to it.

  Args:
    plan: The table.
    path: The JSON file.
    chosen: The cells.
  """
  key = ("size", "method", "topology", "attention", "program")
  done = {tuple(r.get(x, "") for x in key) for r in read(path)}
  for cell in chosen:
    place = dataclasses.astuple(cell)
    missing = [x for x in plan.programs if (*place, x) not in done]
    if not missing:
      continue
    target = targets.find(plan.topologies[cell.topology])
    bindings = plan.bindings(cell, len(target.devices), target.memory)
    files = [plan.model_file(cell.size), f"gin/recipes/{cell.method}.gin"]
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
        # Read again, as another process may have added records since.
        every = [*read(path), record]
        lines = ",\n".join(json.dumps(x, sort_keys=True) for x in every)
        safe_files.write(path, f"[\n{lines}\n]\n")
        print(
          cell, found.program, found.fits, found.compile_seconds, flush=True
        )


def read(*paths: pathlib.Path) -> list[dict[str, Any]]:
  """Reads records; a missing file has no records."""
  found = []
  for path in paths:
    if path.exists():
      with parsing.of(path, "a list of plans"):
        found += [dict(record) for record in json.loads(path.read_bytes())]
  return found
