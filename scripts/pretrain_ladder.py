"""Pretrains the ladder's miniature T5s, from scratch, on generated prose.

  python scripts/pretrain_ladder.py [SIZE...]

Runs the cells of configs/ladder.toml that have no record yet, as launch.py
does, and puts the checkpoints where the other sheets look for them:
checkpoints/SIZE/{span_corruption,lm_10,lm_50,lm_100}, in bfloat16. Stop it when
you like: the same command goes on.
"""

import argparse
import pathlib
import sys

from prompt_tuning import launching, sheets
from prompt_tuning.mini.ladder import pretraining

ROOT = pathlib.Path(__file__).resolve().parents[1]
SIZES = ("mini_xs", "mini_s", "mini_m", "mini_l")


def main() -> None:
  parser = argparse.ArgumentParser(
    description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
  )
  parser.add_argument("sizes", nargs="*", metavar="SIZE", default=SIZES)
  sizes = parser.parse_args().sizes
  if unknown := set(sizes) - set(SIZES):
    parser.error(f"no size {sorted(unknown)}; there is {', '.join(SIZES)}")
  sheet = sheets.load(ROOT / "configs" / "ladder.toml", ROOT / "configs")
  place = launching.Place(ROOT, ROOT / "results")
  for size in sizes:
    for cell in sheet.cells():
      if cell.point["size"] != size:
        continue
      [outcome] = launching.launch([cell], place) or [None]
      if outcome is not None and outcome.status != "finished":
        sys.exit(f"{cell.name}: {outcome.status}")
      stage = str(cell.point["stage"])
      for path in pretraining.export(
        ROOT / cell.folder, ROOT / "checkpoints" / size, stage
      ):
        print(path)


if __name__ == "__main__":
  main()
