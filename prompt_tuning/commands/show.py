"""Show a task as the model sees it: counts, labels, lengths and examples.

prompt-tuning show super_glue_cb --tfds_data_dir=tfds -n 3
"""

import argparse

from prompt_tuning.commands import options


def run(args: argparse.Namespace) -> None:
  """Runs the command."""
  import seqio

  from prompt_tuning.data import task_description

  provider = options.find_task(args, args.task, args.split)
  for task in seqio.get_subtasks(provider):
    if args.split in task.splits:
      text = task_description.describe(task, args.split, args.num_examples)
      print(text, end="\n\n")
