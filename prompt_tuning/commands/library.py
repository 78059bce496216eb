"""List a library of prompts, and find good starting points for a new prompt.

  prompt-tuning library prompts runs
  prompt-tuning library prompts --target=runs/rte/prompt.safetensors
  prompt-tuning library prompts --target=... --mix=3 --output=start.safetensors

--target is a prompt that was trained on the new task for a while. Prompts of
the same frozen model are then listed by similarity to it, except those of the
same data set. The similarities are SPoT's: the cosine of the mean positions,
and the mean cosine of all pairs of positions, by which the list is sorted.
--mix=K writes the mean of the K most similar prompts. Train from it, or from
the first prompt of the list, with gin/recipes/spot.gin.
"""

import argparse
import dataclasses
import pathlib


def run(args: argparse.Namespace) -> None:
  """Runs the command."""
  from prompt_tuning import prompt_files
  from prompt_tuning.inference import prompt_library

  if bool(args.mix) != bool(args.output) or (args.mix and not args.target):
    raise ValueError("--mix, --output and --target go together.")
  sources = prompt_library.read([*map(pathlib.Path, args.prompts)])
  target = None
  if args.target:
    targets = prompt_library.read([pathlib.Path(args.target)])
    if len(targets) != 1:
      raise ValueError(
        f"--target: expected one prompt, got {len(targets)} in {args.target}."
      )
    target = targets[0]
    sources = [*prompt_library.candidates(target, sources)]
    if not sources:
      raise ValueError(
        f"No prompt to start {args.target} from: expected prompts of the same "
        "frozen model that were trained on other data sets."
      )
  table = prompt_library.table(sources, target)
  print(table.to_string(index=False, na_rep="-", float_format="{:.3f}".format))
  if target is not None and args.mix:
    mixed = prompt_library.mixture(target, sources, args.mix)
    # It has no task or score yet.
    header = dataclasses.replace(
      target.metadata, task=None, step=None, metric=None, score=None
    )
    prompt_files.save_prompt(args.output, mixed, header)
    print(f"Wrote {args.output}, a mixture of the first {args.mix}.")
