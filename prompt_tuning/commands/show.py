"""Show a task as the model sees it: counts, labels, lengths and examples.

prompt-tuning show super_glue_cb --tfds_data_dir=tfds -n 3
"""

import argparse

from prompt_tuning.commands import options


def add_arguments(parser: argparse.ArgumentParser) -> None:
  """Adds the flags of the command."""
  add = parser.add_argument
  add("task", metavar="TASK", help="a task or a mixture")
  add("--split", default="validation", help="split to show")
  number = {"type": options.count, "default": 3}
  add("-n", "--num_examples", help="examples", **number)
  options.add_task_data(parser)


def run(args: argparse.Namespace) -> None:
  """Runs the command."""
  import seqio

  from prompt_tuning.data import task_description

  provider = options.find_task(args, args.task, args.split)
  for task in seqio.get_subtasks(provider):
    if args.split in task.splits:
      text = task_description.describe(task, args.split, args.num_examples)
      print(text, end="\n\n")
