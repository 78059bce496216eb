"""Converts a prompt between this project's files, NumPy's and PEFT's.

  python scripts/convert_prompt.py IN OUT [--base_model=google/t5-base-lm-adapt]

IN   prompt.safetensors, a .npy, the folder of a PEFT adapter, or a checkpoint
     of T5X's or of a run
OUT  a name in .safetensors or .npy, or one without a suffix: the folder of a
     PEFT adapter
"""

import argparse
import sys

from prompt_tuning.interop import prompt_conversion


def main() -> None:
  parser = argparse.ArgumentParser(
    description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
  )
  parser.add_argument("source", metavar="IN")
  parser.add_argument("target", metavar="OUT")
  parser.add_argument(
    "--base_model", help="For PEFT: name or path of the Hugging Face model."
  )
  args = parser.parse_args()
  try:
    prompt, metadata = prompt_conversion.read_prompt(args.source)
    written = prompt_conversion.write_prompt(
      args.target, prompt, metadata, args.base_model
    )
  except (ValueError, OSError) as error:
    sys.exit(f"Error: {error}")
  length, width = prompt.shape
  print(f"{args.target}: {written}, prompt of {length} x {width}.")


if __name__ == "__main__":
  main()
