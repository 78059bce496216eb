"""Tune a prompt for a model, on a file of examples.

  prompt-tuning tune google/flan-t5-base reviews.csv
  prompt-tuning tune MODEL DATA [--output=DIR] [--gin.NAME=VALUE ...]

MODEL  the Hugging Face folder of a T5 (1.0, 1.1, FLAN-T5, ...), T5Gemma or
       decoder (Llama, Mistral, SmolLM, Qwen, Gemma), its name on the hub, or
       a checkpoint of T5X or of this project
DATA   a CSV, TSV, JSON or Parquet file with named columns, a data set on the
       hub (OWNER/NAME), or a registered task

Settings depend on the size of the model, the data and the device; --gin.NAME=
and --gin_file= override them. The same command resumes a stopped run.
"""

import argparse
import sys

from prompt_tuning.commands import options


def run(args: argparse.Namespace) -> None:
  """Runs the command."""
  gin_files, gin_bindings, others = options.gin_flags(args.rest)
  if others:
    raise ValueError(f"tune has no flag --{others[0]}.")

  from absl import logging
  import seqio

  from prompt_tuning.training import next_steps, one_command

  logging.set_verbosity(logging.WARNING)
  seqio.set_tfds_data_dir_override(args.tfds_data_dir)
  command = one_command.make(
    args.model, args.data, args.output, gin_files, gin_bindings
  )
  print("Settings (override: --gin.NAME=VALUE):", file=sys.stderr)
  print(*command.settings, sep="\n", file=sys.stderr)
  if args.dry_run:
    words = command.words()
    if args.tfds_data_dir:
      words.append(f"--tfds_data_dir={args.tfds_data_dir}")
    quoted = map(next_steps.quoted, words)
    print(" \\\n  ".join(["python -m t5x.train", *quoted]))
    return
  one_command.run(command)
