"""Makes the table of what fits where: compiles what its records lack.

python scripts/plan_table.py --compile=tpu   # or gpu; goes on where it stopped
python scripts/plan_table.py                 # writes results/plan.md
"""

import t5x.utils  # noqa: F401  Before what imports TensorFlow, to keep it quiet.

# isort: split

import argparse
import pathlib

from prompt_tuning.planning import page, table, targets

ROOT = pathlib.Path(__file__).parents[1]


def main() -> None:
  parser = argparse.ArgumentParser(
    description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
  )
  parser.add_argument("--compile", choices=["tpu", "gpu"])
  parser.add_argument("--methods", default=",".join(table.METHODS))
  parser.add_argument("--sizes", default=",".join(table.SIZES))
  parser.add_argument("--topologies", default=",".join(table.TOPOLOGIES))
  parser.add_argument("--programs", default=",".join(table.PROGRAMS))
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
      and cell.method in args.methods.split(",")
      and cell.size in args.sizes.split(",")
      and cell.topology in args.topologies.split(",")
      and cell.attention == args.attention
    ]
    if not chosen:
      parser.error("the table has no such cell; see the values of these flags")
    table.compile_cells(records[args.compile], chosen, args.programs.split(","))
  (ROOT / "results/plan.md").write_text(
    page.page(table.read(list(records.values())))
  )


# Whether the names of its topologies are those of GPUs.
_KINDS = {"tpu": False, "gpu": True}

if __name__ == "__main__":
  main()
