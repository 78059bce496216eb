"""Serve a frozen model with many prompts, through an API like OpenAI's.

prompt-tuning serve --demo
prompt-tuning serve runs/tune/flan-t5-base-reviews
prompt-tuning serve --checkpoint=checkpoints/t5_small --prompts=prompts

An environment variable such as PROMPT_TUNING_PORT=80 sets a flag's default.
"""

import argparse
from collections.abc import Sequence
import os
import pathlib


def run(args: argparse.Namespace) -> None:
  """Runs the command."""
  args = complete(args)
  if args.processes > 1:
    from prompt_tuning.serving import processes

    processes.serve(args)
  else:
    from prompt_tuning.serving import server

    server.serve(args)


def _collect(given: Sequence[str], folder: str, checkpoint: str | None) -> str:
  """Copies prompts to the served folder.

  Args:
    given: Files or folders of prompts of one model. A `prompt.safetensors` gets
      the name of its folder.
    folder: The folder of prompts.
    checkpoint: The model; by default the one that the prompts name.

  Returns:
    The model.

  Raises:
    ValueError: if the prompts do not name exactly one model, a name belongs to
      another prompt, or requests cannot use a name.
  """
  from etils import epath

  from prompt_tuning import prompt_files
  from prompt_tuning.interop import prompt_conversion
  from prompt_tuning.tuning_jobs import owners

  target = epath.Path(folder)
  known, models, copies = set(), {}, {}
  for path in given:
    file = pathlib.Path(os.path.abspath(path))
    # The name of a folder, or of a prompt on the hub, may have dots.
    name = file.stem if file.suffix in prompt_files.SUFFIXES else file.name
    name = file.parent.name if name == "prompt" else name
    owners.check(name)  # The server would ignore the file.
    prompt, metadata = prompt_conversion.read_prompt(path)
    if metadata is not None:
      if (model := metadata.base_fingerprint) != prompt_files.UNKNOWN:
        known.add(model)
      else:
        model = metadata.base_model
      models[model] = metadata.base_model or models.get(model)
    copy = target / f"{name}.safetensors"
    if copy in copies:
      raise ValueError(f"Two prompts are called {name}: {', '.join(given)}.")
    copies[copy] = prompt, metadata
  named = [*filter(None, models.values())]
  if (count := max(len(known), len({*named}))) > 1:
    raise ValueError(f"Expected prompts of one model, got {count}.")
  checkpoint = checkpoint or next(iter(named), None)
  if checkpoint is None:
    raise ValueError(
      f"{', '.join(given)} names no model. Give --checkpoint=PATH."
    )
  target.mkdir(parents=True, exist_ok=True)
  for path, (prompt, metadata) in copies.items():
    if path.exists() and (
      prompt_files.load_prompt(path)[0].tobytes() != prompt.tobytes()
    ):
      raise ValueError(
        f"{path} is another prompt: remove it, or give another --prompts=DIR."
      )
    prompt_files.save_prompt(path, prompt, metadata)
  return checkpoint


def complete(args: argparse.Namespace) -> argparse.Namespace:
  """Checks the flags, and returns them with the defaults of --demo.

  Raises:
    ValueError: if flags contradict each other, or the demo's files are missing.
  """
  if args.demo:
    if args.files:
      raise ValueError(
        f"--demo serves its own prompts, not {', '.join(args.files)}: leave "
        "one of them out."
      )
    from prompt_tuning.serving import demo

    for name, default in demo.defaults().items():
      if not os.environ.get(f"PROMPT_TUNING_{name.upper()}"):
        args.parser.set_defaults(**{name: default})
    args = args.parser.parse_args(args.words)
  elif args.files:
    args.checkpoint = _collect(args.files, args.prompts, args.checkpoint)
  elif args.checkpoint is None:
    raise ValueError("Name a prompt, or give --checkpoint, or --demo.")
  if args.submit and not args.jobs:
    raise ValueError("--submit is for --jobs, and --jobs is empty.")

  from prompt_tuning.training import cluster_options

  cluster_options.read(args.submit, args.option)
  return args
