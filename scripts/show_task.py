"""Shows a task as the model sees it: counts, labels, lengths and examples.

python scripts/show_task.py super_glue_cb --tfds_data_dir=D [-n=3]
"""

import t5x.utils  # Before what imports TensorFlow, to keep that quiet.

# isort: split

import sys

from absl import app, flags, logging
import seqio

from prompt_tuning.data import task_description
from prompt_tuning.data import vocabulary as vocabulary_lib

FLAGS = flags.FLAGS
flags.DEFINE_string("split", "validation", "Which split.")
flags.DEFINE_integer("num_examples", 3, "How many examples.", short_name="n")
flags.DEFINE_string("tfds_data_dir", None, "Where the TFDS data is.")
flags.DEFINE_string(
  "vocabulary", "checkpoints/t5_small/spiece.model", "A SentencePiece model."
)
flags.DEFINE_integer("extra_ids", 100, "Sentinels after its pieces.")
flags.DEFINE_string("module", "prompt_tuning.tasks", "What registers the task.")


def main(argv: list[str]) -> None:
  if len(argv) != 2:
    raise app.UsageError("Expected the name of one task or mixture.")
  logging.set_verbosity(logging.ERROR)
  seqio.set_tfds_data_dir_override(FLAGS.tfds_data_dir)
  try:
    vocabulary_lib.of_file(FLAGS.vocabulary, FLAGS.extra_ids)
    provider = t5x.utils.find_task_or_mixture(
      argv[1], FLAGS.split, FLAGS.module
    )
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
