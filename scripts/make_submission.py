"""Makes a SuperGLUE submission of predictions, and checks it.

After `python -m t5x.infer` on the test split of each task:

  python scripts/make_submission.py --predictions=DIR[,DIR...] --output=F.zip
  python scripts/make_submission.py --check=F.zip
"""

import t5x  # noqa: F401  Before what imports TensorFlow, to keep it quiet.

# isort: split

import pathlib
import sys

from absl import app, flags

from prompt_tuning.data.release import submission

FLAGS = flags.FLAGS
flags.DEFINE_list("predictions", [], "The INFER_OUTPUT_DIRs of t5x.infer.")
flags.DEFINE_string("output", None, "The zip file to write.")
flags.DEFINE_string(
  "check", None, "A zip file to check, instead of making one."
)
flags.DEFINE_boolean(
  "replace_invalid",
  False,
  "Put a task's most frequent prediction where the text is no label.",
)


def main(argv: list[str]) -> None:
  if len(argv) > 1:
    raise app.UsageError(f"Expected flags only, got {argv[1:]}.")
  if bool(FLAGS.check) == bool(FLAGS.predictions and FLAGS.output):
    raise app.UsageError("Give --predictions and --output, or --check.")
  try:
    path = pathlib.Path(FLAGS.check or FLAGS.output)
    if not FLAGS.check:
      folders = [pathlib.Path(folder) for folder in FLAGS.predictions]
      rows_by_task = {
        found.task.name: submission.rows(found, FLAGS.replace_invalid)
        for found in submission.find_predictions(folders)
      }
      submission.write(rows_by_task, path)
    problems = submission.check(path)
  except (ValueError, OSError) as error:
    sys.exit(f"Error: {error}")
  if problems:
    sys.exit("The leaderboard would refuse it:\n  " + "\n  ".join(problems))
  print(f"{path} is complete.")


if __name__ == "__main__":
  app.run(main)
