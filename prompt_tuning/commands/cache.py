"""Write seqio's offline cache, so that the text of tasks is tokenized once.

  prompt-tuning cache --tasks=super_glue_cb,super_glue_rte \\
    --output_cache_dir=cache --tfds_data_dir=tfds

Runs read the cache with `--seqio_additional_cache_dirs=cache` and
`--gin.USE_CACHED_TASKS=True`.
"""

import argparse

from prompt_tuning.commands import options


def run(args: argparse.Namespace) -> None:
  """Runs the command."""
  import seqio

  from prompt_tuning.data import task_cache, task_lookup

  for name in args.tasks:
    provider = options.find_task(args, name)
    for split in args.splits or ():
      task_lookup.check_split(provider, split)
    for task in seqio.get_subtasks(provider):
      splits = [x for x in task.splits if not args.splits or x in args.splits]
      if splits:
        counts = task_cache.write(task, args.output_cache_dir, splits)
        print(f"{task.name}: {counts or 'already cached'}")
