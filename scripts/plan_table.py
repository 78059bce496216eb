"""Makes the table of what fits where: compiles what its records lack.

python scripts/plan_table.py --compile=tpu   # or gpu; goes on where it stopped
python scripts/plan_table.py                 # writes results/plan.md
"""

import t5x.utils  # noqa: F401  Before what imports TensorFlow, to keep it quiet.

# isort: split

import argparse
from collections.abc import Callable, Collection
import pathlib
import sys

from prompt_tuning.experiments import plan_page as page
from prompt_tuning.experiments import plan_table as table
from t5x.planning import targets

ROOT = pathlib.Path(__file__).parents[1]


def main() -> None:
  parser = argparse.ArgumentParser(
    description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
  )
  parser.add_argument("--compile", choices=["tpu", "gpu"])
  for name, known in _LISTS.items():
    parser.add_argument(
      f"--{name}", type=_some_of(known), default=",".join(known)
    )
  parser.add_argument(
    "--attention", default="", help="Kernels to compile for: flash or cudnn."
  )
  args = parser.parse_args()
  records = {kind: str(ROOT / f"results/plan_{kind}.json") for kind in _KINDS}
  if args.compile:
    targets.prepare()
    chosen = [
      cell
      for cell in table.cells()
      if _KINDS[args.compile] == ("100" in cell.topology)
      and cell.method in args.methods
      and cell.size in args.sizes
      and cell.topology in args.topologies
      and cell.attention == args.attention
    ]
    if not chosen:
      parser.error("the table has no such cell; see the values of these flags")
    try:
      table.compile_cells(records[args.compile], chosen, args.programs)
    except ValueError as e:
      sys.exit(f"Error: {e}")
  (ROOT / "results/plan.md").write_text(
    page.page(table.read(list(records.values())))
  )


def _some_of(known: Collection[str]) -> Callable[[str], list[str]]:
  """Returns what reads a flag's list, of which all have to be known."""

  def read(text: str) -> list[str]:
    values = text.split(",")
    if unknown := [x for x in values if x not in known]:
      raise argparse.ArgumentTypeError(
        f"expected some of {', '.join(known)}, got {', '.join(unknown)}"
      )
    return values

  return read


# Whether the names of its topologies are those of GPUs.
_KINDS = {"tpu": False, "gpu": True}
# Flag -> what may stand in its list.
_LISTS = {
  "methods": table.METHODS,
  "sizes": table.SIZES,
  "topologies": table.TOPOLOGIES,
  "programs": table.PROGRAMS,
}

if __name__ == "__main__":
  main()
