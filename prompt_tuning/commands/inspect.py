"""Inspect a checkpoint, the difference of two checkpoints, or a prompt.

  prompt-tuning inspect CHECKPOINT [CHECKPOINT2]
  prompt-tuning inspect PROMPT --checkpoint=checkpoints/t5_small

CHECKPOINT is anything that INITIAL_CHECKPOINT_PATH takes, or the folder of a
Hugging Face T5 1.1; the two may have different formats.

PROMPT is anything that `convert prompt` reads, and --checkpoint its base model.
Norms, the nearest vocabulary pieces and class labels are printed; the plot goes
to a file.
"""

import argparse
import pathlib

from prompt_tuning.commands import options

_PLOTS = (".png", ".svg", ".pdf")


def add_arguments(parser: argparse.ArgumentParser) -> None:
  """Adds the flags of the command."""
  add = parser.add_argument
  add("path", metavar="PATH", help="checkpoint or prompt")
  add("other", nargs="?", help="another checkpoint, to compare with")
  add("--checkpoint", help="the base model of a prompt")
  options.add_vocabulary(
    parser, "the one beside the checkpoint, or that of the ladder's models"
  )
  add(
    "--labels",
    type=options.words,
    help="class labels, such as 'True,False'; by default those of the prompt's "
    "task, if it is known",
  )
  add("-n", type=options.count, default=5, help="pieces for each position")
  file = pathlib.Path("prompt.png")
  about = "plot to write: .png, .svg or .pdf"
  add("--plot", type=pathlib.Path, default=file, metavar="FILE", help=about)


def run(args: argparse.Namespace) -> None:
  """Runs the command."""
  from prompt_tuning.interop import (
    checkpoint_conversion,
    checkpoint_inspection,
    peft_adapters,
  )

  is_prompt = pathlib.PurePath(args.path).suffix in (".safetensors", ".npy")
  if args.checkpoint:
    _inspect_prompt(args)
  elif is_prompt or peft_adapters.is_adapter(args.path):
    raise ValueError(
      f"{args.path} is a prompt: give the base model, --checkpoint=PATH."
    )
  else:
    model = checkpoint_conversion.open_model(args.path)
    if args.other is None:
      print(checkpoint_inspection.describe(model))
    else:
      other = checkpoint_conversion.open_model(args.other)
      print(checkpoint_inspection.compare(model, other))


def _inspect_prompt(args: argparse.Namespace) -> None:
  from prompt_tuning import tasks
  from prompt_tuning.data import superglue
  from prompt_tuning.inference import frozen_model, neighbours
  from prompt_tuning.interop import prompt_conversion
  from prompt_tuning.training import base_model
  from t5x import checkpoints

  if args.plot.suffix not in _PLOTS:
    raise ValueError(
      f"--plot: expected one of {', '.join(_PLOTS)}, got {args.plot}."
    )
  prompt, metadata = prompt_conversion.read_prompt(args.path)
  base = checkpoints.open_checkpoint(args.checkpoint)
  vocabulary = args.vocabulary
  if vocabulary is None:
    is_ladder = frozen_model.is_of_ladder(base)
    vocabulary = (
      "ladder" if is_ladder else frozen_model.vocabulary_file(base.path)
    )
  vocabulary = tasks.use_vocabulary(vocabulary, args.extra_ids)
  if metadata is not None:
    base_model.check_compatible([metadata], args.checkpoint, vocabulary)
  task = superglue.ROWS.get((metadata and metadata.task) or "")
  result = neighbours.analyse(
    prompt,
    base_model.token_embedding(args.checkpoint),
    vocabulary,
    args.labels or (task and task.class_words) or (),
    args.n,
  )
  print(neighbours.tabulate(result), neighbours.summarize(result), sep="\n\n")
  neighbours.plot(result, args.path).savefig(args.plot, dpi=150)
  print(f"plot: {args.plot}")
