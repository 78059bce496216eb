"""Inspect a checkpoint, the differences between two checkpoints, or a prompt.

  prompt-tuning inspect CHECKPOINT [CHECKPOINT2]
  prompt-tuning inspect PROMPT --checkpoint=checkpoints/t5_small

CHECKPOINT is anything that INITIAL_CHECKPOINT_PATH takes, or the folder of a
Hugging Face T5; the two may have different formats.

PROMPT is anything that `convert prompt` reads, and --checkpoint is its base
model. The command prints norms, the nearest vocabulary pieces and class labels,
and writes a plot. --audit runs the model with and without the prompt: it shows
how the prompt changes answers, and whether it leaks its training data
(docs/auditing.md).
"""

import argparse
import dataclasses
import json
import pathlib
from typing import Any

from prompt_tuning.commands import options

_PLOTS = (".png", ".svg", ".pdf")


def run(args: argparse.Namespace) -> None:
  """Runs the command."""
  needs_audit = (args.json, args.canary, args.train_file, args.held_out_file)
  if any(needs_audit) and not args.audit:
    raise ValueError(
      "--json, --canary, --train_file and --held_out_file need --audit."
    )
  from prompt_tuning.interop import (
    checkpoint_conversion,
    checkpoint_inspection,
    peft_adapters,
    prompt_conversion,
  )

  is_prompt = pathlib.PurePath(args.path).suffix in (".safetensors", ".npy")
  is_prompt = is_prompt or args.audit or peft_adapters.is_adapter(args.path)
  if is_prompt and not args.checkpoint:
    _, metadata = prompt_conversion.read_prompt(args.path)
    args.checkpoint = metadata and metadata.base_model
    if not args.checkpoint:
      raise ValueError(
        f"{args.path} is a prompt: name its base model, --checkpoint=PATH."
      )
  if args.checkpoint and args.other:
    raise ValueError(
      f"{args.path} is a prompt. Only checkpoints are compared: leave out "
      f"{args.other}."
    )
  if args.checkpoint:
    (_audit_prompt if args.audit else _inspect_prompt)(args)
  else:
    model = checkpoint_conversion.open_model(args.path)
    if args.other is None:
      print(checkpoint_inspection.describe(model))
    else:
      other = checkpoint_conversion.open_model(args.other)
      print(checkpoint_inspection.compare(model, other))


def _open(args: argparse.Namespace) -> tuple[Any, Any]:
  """Returns the `TunedPrompt` and its `FrozenModel`."""
  from prompt_tuning.inference.requests import TunedPrompt

  prompt = TunedPrompt.load(args.path)
  model = options.load_frozen(args, args.checkpoint)
  model.prompt_array(prompt)  # Refuses a prompt of another model.
  return prompt, model


def _audit_prompt(args: argparse.Namespace) -> None:
  from prompt_tuning.data import files
  from prompt_tuning.inference import audit

  if args.held_out_file and not args.train_file:
    raise ValueError("--held_out_file needs --train_file.")
  prompt, model = _open(args)
  train, held_out = (), ()
  if args.train_file:
    data = files.read(
      *(args.train_file, args.held_out_file, None),
      *(args.input_columns, args.target_column, args.labels, args.held_out),
      vocabulary=model.vocabulary,
    )
    train, held_out = map(data.pairs, ("train", "validation"))
  measures = audit.audit(
    model, prompt, args.canary or (), train, held_out, args.samples
  )
  if args.json:
    print(json.dumps([dataclasses.asdict(x) for x in measures], indent=2))
  else:
    print(audit.tabulate(measures))


def _inspect_prompt(args: argparse.Namespace) -> None:
  from prompt_tuning.data import task_rows
  from prompt_tuning.inference import neighbours

  if args.plot.suffix not in _PLOTS:
    raise ValueError(
      f"--plot: expected one of {', '.join(_PLOTS)}, got {args.plot}."
    )
  prompt, model = _open(args)
  metadata = prompt.metadata
  task = task_rows.ROWS.get((metadata and metadata.task) or "")
  result = neighbours.analyse(
    prompt.array,
    model.embedding,
    model.vocabulary,
    args.labels or (task and task.class_words) or (),
    args.n,
  )
  print(neighbours.tabulate(result), neighbours.summarize(result), sep="\n\n")
  neighbours.plot(result, args.path).savefig(args.plot, dpi=150)
  print(f"plot: {args.plot}")
