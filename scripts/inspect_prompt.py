"""Shows what a prompt says: norms, nearest vocabulary pieces, class labels.

python scripts/inspect_prompt.py PROMPT --checkpoint=checkpoints/t5_small

PROMPT is what scripts/convert_prompt.py reads. The table goes to the standard
output, the plot to a file.
"""

import t5x.utils  # noqa: F401  Before what imports TensorFlow, to keep it quiet.

# isort: split

import argparse
import pathlib
import sys

from prompt_tuning import tasks
from prompt_tuning.data import superglue
from prompt_tuning.inference import frozen_model
from prompt_tuning.inference import neighbours as analysis
from prompt_tuning.interop import prompt_conversion
from prompt_tuning.training import base_model
from t5x import checkpoints


def main() -> None:
  parser = argparse.ArgumentParser(
    description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
  )
  parser.add_argument("prompt", metavar="PROMPT")
  parser.add_argument("--checkpoint", required=True, help="The base model.")
  parser.add_argument(
    "--vocabulary",
    help="A SentencePiece model, or 'ladder'; by default what lies beside "
    "the checkpoint, or what the ladder's models have.",
  )
  parser.add_argument(
    "--extra_ids", type=int, default=100, help="Its sentinels."
  )
  parser.add_argument(
    "--labels",
    help="Such as 'True,False'; by default those of its task, if known.",
  )
  parser.add_argument(
    "-n", type=int, default=5, help="Pieces shown for each position."
  )
  parser.add_argument(
    "--plot", default="prompt.png", help="A .png, .svg or .pdf."
  )
  args = parser.parse_args()
  if pathlib.Path(args.plot).suffix not in (".png", ".svg", ".pdf"):
    parser.error(f"--plot: expected a .png, .svg or .pdf, got {args.plot}")
  try:
    _inspect(args)
  except (ValueError, OSError) as error:
    sys.exit(f"Error: {error}")


def _inspect(args: argparse.Namespace) -> None:
  prompt, metadata = prompt_conversion.read_prompt(args.prompt)
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
  labels = args.labels.split(",") if args.labels else task and task.class_words
  result = analysis.analyse(
    prompt,
    base_model.token_embedding(args.checkpoint),
    vocabulary,
    labels or (),
    args.n,
  )
  print(analysis.tabulate(result), analysis.summarize(result), sep="\n\n")
  analysis.plot(result, args.prompt).savefig(args.plot, dpi=150)
  print(f"plot: {args.plot}")


if __name__ == "__main__":
  main()
