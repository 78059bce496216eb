"""Move a prompt to another frozen model, without training on its task.

  prompt-tuning recycle PROMPT --from=BASE --to=BASE --output=moved.safetensors

The two models must have the same vocabulary, as sizes or versions of one model
do. Evaluate the result, or train it for a few steps with gin/recipes/spot.gin.
--method is one of the paper's (Lester et al., 2022): `v2v-lin`, a linear map
between the embeddings; `lin-comb`, which combines new embeddings as the prompt
combines old ones; or `v2v-nn`, a small network.
"""

import argparse

from prompt_tuning.commands import options


def run(args: argparse.Namespace) -> None:
  """Runs the command."""
  from prompt_tuning import prompt_files
  from prompt_tuning.inference import recycling
  from prompt_tuning.inference.requests import TunedPrompt

  prompt_files.suffix_of(args.output)  # Refuses it before a long computation.
  old = options.load_frozen(args, args.source)
  new = options.load_frozen(args, args.target)
  moved = recycling.move(
    TunedPrompt.load(args.prompt),
    *(old, new, args.method, args.skip, args.tokens),
  )
  moved.save(args.output)
  length, width = moved.array.shape
  print(f"{args.output}: prompt of {length} x {width} for {new.checkpoint}.")
