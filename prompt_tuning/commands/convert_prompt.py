"""Convert a prompt between the formats of this project, NumPy and PEFT.

  prompt-tuning convert prompt IN OUT [--base_model=google/t5-base-lm-adapt]

IN   prompt.safetensors, a .npy file, the folder of a PEFT adapter, or a
     T5X checkpoint, which may be that of a run
OUT  a name that ends with .safetensors or .npy, or a folder for a PEFT adapter
"""

import argparse


def run(args: argparse.Namespace) -> None:
  """Runs the command."""
  from prompt_tuning.interop import prompt_conversion

  prompt, metadata = prompt_conversion.read_prompt(args.source, args.task)
  written = prompt_conversion.write_prompt(
    args.target, prompt, metadata, args.base_model
  )
  length, width = prompt.shape
  print(f"{args.target}: {written}, prompt of {length} x {width}.")
