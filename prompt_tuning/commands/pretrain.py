"""Pretrain the ladder's miniature T5s from scratch, on generated prose.

  prompt-tuning pretrain [SIZE...]

Runs the cells of configs/ladder.toml that have no record, and those whose run
and checkpoints are both missing, such as those of ladder_l and of the second
seed, which are not in the repository. Writes checkpoints where the other sheets
expect them: checkpoints/SIZE/{span_corruption,lm_10,lm_50,lm_100}, in bfloat16;
also long_documents for ladder_xs, longer_lm for all but ladder_l, and
{seed1_span_corruption,seed1_lm} for ladder_xs and ladder_s. You can stop the
command at any time; the same command resumes it.
"""

import argparse

SIZES = ("ladder_xxs", "ladder_xs", "ladder_s", "ladder_m", "ladder_l")


def run(args: argparse.Namespace) -> None:
  """Runs the command."""
  from prompt_tuning.experiments import launching, records, sheets
  from prompt_tuning.experiments.running import Workspace
  from prompt_tuning.mini.ladder import pretraining

  if unknown := set(args.sizes) - set(SIZES):
    raise ValueError(f"No size {sorted(unknown)}; expected {', '.join(SIZES)}.")
  workspace = Workspace(args.root, args.root / "results")

  def is_here(cell) -> bool:
    """Returns whether a cell's record is of the run in its folder."""
    left = workspace.folder(cell) / "record.json"
    filed = workspace.archive().record(cell) if left.exists() else None
    return filed is not None and filed.started == records.read(left).started

  cells = sheets.load("ladder", args.root / "configs").cells()
  sizes = args.sizes or SIZES
  for cell in [x for size in sizes for x in cells if x.point["size"] == size]:
    stage, folder = str(cell.point["stage"]), args.root / "checkpoints"
    folder = folder / str(cell.point["size"])
    stored = workspace.record(cell)
    # The names of a stage's checkpoints start with the stage's name.
    kept = any(folder.glob(f"{stage}*/checkpoint_*"))
    if stored.exists() and not kept and not is_here(cell):
      print(f"{cell.name} has a record but no checkpoints: running it again.")
      stored.unlink()
    for outcome in launching.launch([cell], workspace, retry_failed=True):
      if not outcome.counts:
        raise ValueError(f"{cell.name}: {outcome.status}, {outcome.error}")
    if is_here(cell):
      for path in pretraining.export(workspace.folder(cell), folder, stage):
        print(path)
