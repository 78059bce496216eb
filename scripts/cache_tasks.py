"""Writes seqio's offline cache of tasks: text that is tokenized once for all.

  python scripts/cache_tasks.py --tasks=super_glue_cb,super_glue_rte \\
    --output_cache_dir=C --tfds_data_dir=D

and then `--seqio_additional_cache_dirs=C --gin.USE_CACHED_TASKS=True`.
"""

import t5x.input.task_lookup  # First: it keeps TensorFlow quiet.

# isort: split

import pathlib
import sys

from absl import app, flags, logging
import seqio

from prompt_tuning import tasks
from prompt_tuning.data import task_cache

FLAGS = flags.FLAGS
flags.DEFINE_list("tasks", None, "Tasks, or mixtures of them.", required=True)
flags.DEFINE_string("output_cache_dir", None, "Where to.", required=True)
flags.DEFINE_list(
  "splits",
  None,
  "Which splits, of a mixture where a task has them. Unset: all.",
)
flags.DEFINE_string("tfds_data_dir", None, "Where the TFDS data is.")
flags.DEFINE_string(
  "vocabulary",
  None,
  "A SentencePiece model, or 'ladder'. Unset: the ladder's for its tasks, that "
  "of checkpoints/t5_small for others.",
)
flags.DEFINE_integer("extra_ids", 100, "Sentinels after its pieces.")
flags.DEFINE_string(
  "module", "prompt_tuning.tasks", "What registers the tasks."
)


def main(argv: list[str]) -> None:
  if len(argv) > 1:
    raise app.UsageError(f"Expected flags only, got {argv[1:]}.")
  logging.set_verbosity(logging.ERROR)
  sys.path.append("")  # Where `python -m` would look for --module too.
  seqio.set_tfds_data_dir_override(FLAGS.tfds_data_dir)
  folder = pathlib.Path(FLAGS.output_cache_dir)
  try:
    for name in FLAGS.tasks:
      tasks.use_vocabulary(FLAGS.vocabulary, FLAGS.extra_ids, name)
      provider = t5x.input.task_lookup.find(name, None, FLAGS.module)
      for task, counts in task_cache.write_all(provider, folder, FLAGS.splits):
        print(f"{task}: {counts or 'is there already'}")
  except ValueError as error:
    sys.exit(f"Error: {error}")


if __name__ == "__main__":
  app.run(main)
