"""Evaluate a prompt on a file of examples.

prompt-tuning eval runs/tune/flan-t5-base-reviews test.csv
"""

import argparse


def run(args: argparse.Namespace) -> None:
  """Runs the command."""
  import contextlib

  from absl import logging

  from prompt_tuning.data import files
  from prompt_tuning.training import model as model_lib
  from t5x.runs import command_line, records

  logging.set_verbosity(logging.WARNING)
  model, prompt = model_lib.load_for(args.prompt, args.model)
  data = args.data
  if files.is_data(data):
    data = files.pairs(data, args.input_columns, args.target_column)
  with contextlib.closing(command_line.ProgressBar("eval", "example")) as bar:
    metrics = model.evaluate(
      data,
      prompt,
      labels=args.labels,
      rank=args.rank,
      batch_size=args.batch_size,
      on_event=bar,
    )
  print(records.format_metrics(args.data, metrics))
