"""Convert models between T5X checkpoints and Hugging Face folders.

  prompt-tuning convert checkpoint --from hf DIR --to t5x OUT [--step=N]
  prompt-tuning convert checkpoint --from t5x CHECKPOINT --to hf OUT
  prompt-tuning convert checkpoint --from t5x RUN --to t5x OUT
  prompt-tuning convert checkpoint --from hf DIR --to int8 OUT

hf   a T5 (1.0, 1.1, FLAN-T5) or decoder: config.json and safetensors
t5x  as input, anything that INITIAL_CHECKPOINT_PATH takes; a run is read as its
     base model, merged with the parameters of its last checkpoint. As output,
     OUT/checkpoint_<step> of a T5, which Google's T5X can read too
int8 output only, and only this project reads it: the same files as t5x, or as
     hf for a decoder or T5Gemma, with matrices in int8
"""

import argparse


def run(args: argparse.Namespace) -> None:
  """Runs the command."""
  from prompt_tuning.interop import checkpoint_conversion

  formats = checkpoint_conversion.FORMATS
  for (name, _), known in (args.source, formats[:2]), (args.target, formats):
    if name not in known:
      raise ValueError(f"Expected a format {' or '.join(known)}, got {name}.")
  source_format, source = args.source
  model = checkpoint_conversion.open_model(source, source_format)
  if args.prompt:
    model = checkpoint_conversion.add_prompt(
      model, args.prompt, args.prompt_name
    )
  print(checkpoint_conversion.convert(model, *args.target, args.step))
