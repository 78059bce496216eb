"""Upload a prompt to the Hugging Face hub, as an adapter of PEFT's.

  prompt-tuning push runs/tune/flan-t5-base-reviews OWNER/NAME

It comes with a model card, and `PeftModel.from_pretrained(base, "OWNER/NAME")`
loads it. Log in first: hf auth login.
"""

import argparse


def run(args: argparse.Namespace) -> None:
  """Runs the command."""
  from prompt_tuning.interop import hub, prompt_conversion

  prompt, metadata = prompt_conversion.read_prompt(args.prompt)
  print(
    hub.push(args.repository, prompt, metadata, args.base_model, args.private)
  )
