"""Evaluate a prompt on a file of examples.

prompt-tuning eval runs/tune/flan-t5-base-reviews test.csv
"""

import argparse

from prompt_tuning.commands import options


def add_arguments(parser: argparse.ArgumentParser) -> None:
  """Adds the flags of the command."""
  options.add_prompt(parser)
  add = parser.add_argument
  data = "CSV, TSV, JSONL or Parquet file with the columns of the training file"
  add("data", metavar="DATA", help=data)
  labels = "legal answers, such as 'good,bad'; by default those in the file"
  add("--labels", type=options.words, help=labels)
  rank = "choose the likeliest label instead of generating text"
  add("--rank", action="store_true", help=rank)
  batch = "examples in a batch"
  add("--batch_size", type=options.positive, default=32, help=batch)


def run(args: argparse.Namespace) -> None:
  """Runs the command."""
  import contextlib

  from absl import logging

  from prompt_tuning.training import model as model_lib
  from t5x.files import compilation_cache
  from t5x.runs import command_line, records

  logging.set_verbosity(logging.WARNING)
  compilation_cache.enable()
  model, prompt = model_lib.load_for(args.prompt, args.model)
  with contextlib.closing(command_line.ProgressBar("eval", "example")) as bar:
    metrics = model.evaluate(
      args.data,
      prompt,
      labels=args.labels,
      rank=args.rank,
      batch_size=args.batch_size,
      on_event=bar,
    )
  print(records.format_metrics(args.data, metrics))
