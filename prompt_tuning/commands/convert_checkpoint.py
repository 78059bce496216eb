"""Convert models between T5X's checkpoints and Hugging Face's folders.

  prompt-tuning convert checkpoint --from hf DIR --to t5x OUT [--step=N]
  prompt-tuning convert checkpoint --from t5x CHECKPOINT --to hf OUT
  prompt-tuning convert checkpoint --from t5x RUN --to t5x OUT

hf   a T5 1.1, LM-adapted T5, FLAN-T5 or decoder: config.json and safetensors
t5x  to read: anything that INITIAL_CHECKPOINT_PATH takes; a run is read as its
     base model, merged with the parameters it trained last
     to write: OUT/checkpoint_<step>, for Google's T5X too
"""

import argparse


def run(args: argparse.Namespace) -> None:
  """Runs the command."""
  from prompt_tuning.interop import checkpoint_conversion

  for name, _ in (args.source, args.target):
    if name not in checkpoint_conversion.FORMATS:
      raise ValueError(f"Expected a format hf or t5x, got {name}.")
  source_format, source = args.source
  model = checkpoint_conversion.open_model(source, source_format)
  if args.prompt:
    model = checkpoint_conversion.add_prompt(
      model, args.prompt, args.prompt_name
    )
  print(checkpoint_conversion.convert(model, *args.target, args.step))
