"""Prepare the data that the tasks of a benchmark read.

  prompt-tuning prepare superglue --tfds_data_dir=tfds
  prompt-tuning prepare glue --tfds_data_dir=tfds --from=RELEASE

The first command downloads the data. The second one builds it offline from a
folder with the official files: CB/train.jsonl or CB.zip for SuperGLUE;
CoLA/train.tsv for GLUE; train-v1.1.json for SQuAD; DROP.jsonl for MRQA. If a
task cannot be built, the other tasks are built anyway, and the exit status is
1.
"""

import argparse
import sys


def run(args: argparse.Namespace) -> int:
  """Runs the command."""
  from absl import logging
  import tensorflow_datasets as tfds

  from prompt_tuning.data.release import tfds_data

  logging.set_verbosity(logging.WARNING)
  if args.release:
    tfds.disable_progress_bar()  # `convert` shows its own.
    report = tfds_data.convert(args.release, args.tfds_data_dir, args.benchmark)
  else:
    report = tfds_data.download(args.tfds_data_dir, args.benchmark)
  for label, found in (("built", report.built), ("kept", report.kept)):
    for name, counts in found.items():
      splits = ", ".join(f"{split} {n:,}" for split, n in counts.items())
      print(f"{label}: {name} ({splits})")
  if report.missing:
    print(f"missing: {', '.join(report.missing)}")
  for name, reason in report.failed.items():
    print(f"Error: {name} is not built. {reason}", file=sys.stderr)
  return 1 if report.failed else 0
