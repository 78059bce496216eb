"""Upload a prompt to the Hugging Face hub, as a PEFT adapter.

  prompt-tuning push runs/tune/flan-t5-base-reviews OWNER/NAME

A model card is uploaded too. `PeftModel.from_pretrained(base, "OWNER/NAME")`
loads the adapter. Log in first: hf auth login.
"""

import argparse


def run(args: argparse.Namespace) -> None:
  """Runs the command."""
  from prompt_tuning.inference.requests import TunedPrompt

  prompt = TunedPrompt.load(args.prompt)
  print(prompt.push_to_hub(args.repository, args.base_model, args.private))
