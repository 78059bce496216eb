"""Try a prompt: type a line, and the model answers it.

prompt-tuning try runs/tune/flan-t5-base-reviews
echo "A fine film." | prompt-tuning try prompt.safetensors
"""

import argparse
import sys


def run(args: argparse.Namespace) -> None:
  """Runs the command."""
  from prompt_tuning.training import model as model_lib

  model, prompt = model_lib.load_for(args.prompt, args.model)
  is_terminal = sys.stdin.isatty()
  if is_terminal:
    print(f"{model.name}: each line is an input; Ctrl-D ends.", file=sys.stderr)
  while True:
    try:
      # Spaces are part of an input, as they are in training.
      text = input("> " if is_terminal else "")
      if text.strip():
        print(*model.generate([text], prompt, args.max_length), flush=True)
    except (EOFError, KeyboardInterrupt):
      break
