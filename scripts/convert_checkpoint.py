"""Converts a T5 1.1 between T5X's checkpoints and Hugging Face's folders.

  python scripts/convert_checkpoint.py --from hf DIR --to t5x OUT [--step=N]
  python scripts/convert_checkpoint.py --from t5x CHECKPOINT --to hf OUT
  python scripts/convert_checkpoint.py --from t5x RUN --to t5x OUT

hf   a T5 1.1, LM-adapted T5 or FLAN-T5: config.json and model.safetensors
t5x  in: what INITIAL_CHECKPOINT_PATH takes; a run is its base model, merged
     with what it trained last; out: OUT/checkpoint_<step>, for Google's T5X too
"""

import argparse
import sys

from prompt_tuning.interop import checkpoint_conversion, prompt_conversion


def main() -> None:
  parser = argparse.ArgumentParser(
    description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
  )
  for flag, dest in (("--from", "source"), ("--to", "target")):
    parser.add_argument(
      flag, dest=dest, nargs=2, required=True, metavar=("FORMAT", "PATH")
    )
  parser.add_argument(
    "--step",
    type=int,
    help="Pretraining steps, which hf does not know: 0. 1100000 if LM-adapted.",
  )
  parser.add_argument("--prompt", help="A prompt to merge with it.")
  parser.add_argument(
    "--prompt_name",
    default=prompt_conversion.PARAMETER_PATHS[0],
    choices=prompt_conversion.PARAMETER_PATHS,
    help="Its parameter; the longer one for the paper's code.",
  )
  args = parser.parse_args()
  for name, _ in (args.source, args.target):
    if name not in checkpoint_conversion.FORMATS:
      parser.error(f"expected a format hf or t5x, got {name}")
  try:
    model = checkpoint_conversion.open_model(*args.source)
    if args.prompt:
      model = checkpoint_conversion.add_prompt(
        model, args.prompt, args.prompt_name
      )
    print(checkpoint_conversion.convert(model, *args.target, args.step))
  except (ValueError, OSError) as error:
    sys.exit(f"Error: {error}")


if __name__ == "__main__":
  main()
