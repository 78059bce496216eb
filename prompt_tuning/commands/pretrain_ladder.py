"""Pretrains the ladder's miniature T5s, from scratch, on generated prose.

  python scripts/pretrain_ladder.py [SIZE...]

A SIZE is ladder_xxs, ladder_xs, ladder_s, ladder_m or ladder_l; all by default.

Runs the cells of configs/ladder.toml that have no record yet, as launch.py
does, or neither their run nor checkpoints of it: ladder_l's are too large to
come with the repository. Puts the checkpoints where the other sheets look for
them: checkpoints/SIZE/{span_corruption,lm_10,lm_50,lm_100}, in bfloat16; of
ladder_xs, long_documents too, and of all but ladder_l, longer_lm. Stop it when
you like: the same command goes on.
"""

import argparse
from collections.abc import Sequence
import pathlib
import sys

from prompt_tuning.commands import options
from prompt_tuning.experiments import launching, records, sheets
from prompt_tuning.experiments.cells import Cell
from prompt_tuning.experiments.running import Place
from prompt_tuning.mini.ladder import pretraining

SIZES = ("ladder_xxs", "ladder_xs", "ladder_s", "ladder_m", "ladder_l")


def main(arguments: Sequence[str] | None = None) -> None:
  """Does what the arguments say, by default those of the process."""
  parser = argparse.ArgumentParser(
    description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
  )
  parser.add_argument("sizes", nargs="*", metavar="SIZE", default=SIZES)
  options.add_root(parser)
  args = parser.parse_args(arguments)
  if unknown := set(args.sizes) - set(SIZES):
    parser.error(f"no size {sorted(unknown)}; there is {', '.join(SIZES)}")
  root = args.root.resolve()
  try:
    sheet = sheets.load("ladder", root / "configs")
    for size in args.sizes:
      for cell in sheet.cells():
        if cell.point["size"] == size:
          _pretrain(cell, root)
  except (OSError, ValueError) as error:
    sys.exit(f"Error: {error}")


def _pretrain(cell: Cell, root: pathlib.Path) -> None:
  """Runs a cell if nothing of it is here, and exports its checkpoints."""
  place = Place(root, root / "results")
  stage = str(cell.point["stage"])
  folder = root / "checkpoints" / str(cell.point["size"])
  # Run elsewhere: the names of the checkpoints begin with that of the stage.
  kept = any(folder.glob(f"{stage}*/checkpoint_*"))
  if place.record(cell).exists() and not kept and not _is_here(cell, place):
    print(f"{cell.name} has a record but no checkpoints: it is run again.")
    place.record(cell).unlink()
  [outcome] = launching.launch([cell], place, retry_failed=True) or [None]
  if outcome is not None and not outcome.counts:
    raise ValueError(f"{cell.name}: {outcome.status}, {outcome.error}")
  if _is_here(cell, place):
    for path in pretraining.export(place.folder(cell), folder, stage):
      print(path)


def _is_here(cell: Cell, place: Place) -> bool:
  """Whether what lies in a cell's folder is the run that its record is of."""
  left = place.folder(cell) / "record.json"
  if not left.exists():
    return False
  filed = place.archive().record(cell)
  return filed is not None and filed.started == records.read(left).started
