"""Convert a prompt between this project's files, NumPy's and PEFT's.

  prompt-tuning convert prompt IN OUT [--base_model=google/t5-base-lm-adapt]

IN   prompt.safetensors, a .npy, the folder of a PEFT adapter, or a checkpoint
     of T5X or of a run
OUT  a name that ends with .safetensors or .npy, or the folder of a PEFT adapter
"""

import argparse


def add_arguments(parser: argparse.ArgumentParser) -> None:
  """Adds the flags of the command."""
  add = parser.add_argument
  add("source", metavar="IN", help="prompt to read")
  add("target", metavar="OUT", help="file or folder to write")
  add("--base_model", help="for PEFT: name or path of the Hugging Face model")


def run(args: argparse.Namespace) -> None:
  """Runs the command."""
  from prompt_tuning.interop import prompt_conversion

  prompt, metadata = prompt_conversion.read_prompt(args.source)
  written = prompt_conversion.write_prompt(
    args.target, prompt, metadata, args.base_model
  )
  length, width = prompt.shape
  print(f"{args.target}: {written}, prompt of {length} x {width}.")
