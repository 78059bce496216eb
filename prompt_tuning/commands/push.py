"""Upload a prompt to the Hugging Face hub, as an adapter of PEFT's.

  prompt-tuning push runs/tune/flan-t5-base-reviews OWNER/NAME

It comes with a model card, and `PeftModel.from_pretrained(base, "OWNER/NAME")`
loads it. Log in first: hf auth login.
"""

import argparse


def add_arguments(parser: argparse.ArgumentParser) -> None:
  """Adds the flags of the command."""
  add = parser.add_argument
  add("prompt", metavar="PROMPT", help="file or folder of the prompt")
  add("repository", metavar="OWNER/NAME", help="repository; made if missing")
  base = "name of the model on the hub; by default as it was trained"
  add("--base_model", metavar="OWNER/NAME", help=base)
  add("--private", action="store_true", help="make a private repository")


def run(args: argparse.Namespace) -> None:
  """Runs the command."""
  from prompt_tuning.interop import hub, prompt_conversion

  prompt, metadata = prompt_conversion.read_prompt(args.prompt)
  print(
    hub.push(args.repository, prompt, metadata, args.base_model, args.private)
  )
