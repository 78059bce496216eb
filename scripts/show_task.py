"""Shows a task as the model sees it: counts, labels, lengths and examples.

python scripts/show_task.py super_glue_cb --tfds_data_dir=D [-n=3]
"""

import t5x.input.task_lookup  # First: it keeps TensorFlow quiet.

# isort: split

import sys

from absl import app, flags, logging
import seqio

from prompt_tuning import tasks
from prompt_tuning.data import task_description

FLAGS = flags.FLAGS
flags.DEFINE_string("split", "validation", "Which split.")
flags.DEFINE_integer("num_examples", 3, "How many examples.", short_name="n")
flags.DEFINE_string("tfds_data_dir", None, "Where the TFDS data is.")
flags.DEFINE_string(
  "vocabulary",
  None,
  "A SentencePiece model, or 'ladder'. Unset: the ladder's for its tasks, that "
  "of checkpoints/t5_small for others.",
)
flags.DEFINE_integer("extra_ids", 100, "Sentinels after its pieces.")
flags.DEFINE_string("module", "prompt_tuning.tasks", "What registers the task.")


def main(argv: list[str]) -> None:
  if len(argv) != 2:
    raise app.UsageError("Expected the name of one task or mixture.")
  logging.set_verbosity(logging.ERROR)
  sys.path.append("")  # Where `python -m` would look for --module too.
  seqio.set_tfds_data_dir_override(FLAGS.tfds_data_dir)
  try:
    tasks.use_vocabulary(FLAGS.vocabulary, FLAGS.extra_ids, argv[1])
    provider = t5x.input.task_lookup.find(argv[1], FLAGS.split, FLAGS.module)
    for task in seqio.get_subtasks(provider):
      if FLAGS.split in task.splits:
        print(
          task_description.describe(task, FLAGS.split, FLAGS.num_examples),
          end="\n\n",
        )
  except ValueError as error:
    sys.exit(f"Error: {error}")


if __name__ == "__main__":
  app.run(main)
