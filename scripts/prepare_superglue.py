"""Prepares the SuperGLUE data that the tasks read.

Downloads it, or with --from builds it offline from a folder of the official
release (CB/train.jsonl ... or CB.zip ...):

  python scripts/prepare_superglue.py --tfds_data_dir=D [--from=DIR]

Says at the end what was built. The exit status is 1 if a task could not be: the
others are there all the same.
"""

import t5x  # noqa: F401  Before what imports TensorFlow, to keep it quiet.

# isort: split

import sys

from absl import app, flags, logging
import tensorflow_datasets as tfds

from prompt_tuning.data.release import tfds_data as official_release

FLAGS = flags.FLAGS
flags.DEFINE_string(
  "tfds_data_dir", None, "Where the TFDS data goes.", required=True
)
flags.DEFINE_string(
  "from", None, "A folder of the official release. Unset: download."
)


def main(argv: list[str]) -> None:
  if len(argv) > 1:
    raise app.UsageError(f"Expected flags only, got {argv[1:]}.")
  logging.set_verbosity(logging.WARNING)
  data_dir, release_dir = FLAGS.tfds_data_dir, FLAGS["from"].value
  try:
    if release_dir:
      tfds.disable_progress_bar()  # There is one already.
      report = official_release.convert(release_dir, data_dir)
    else:
      report = official_release.download(data_dir)
  except ValueError as error:
    sys.exit(f"Error: {error}")
  for what in ("built", "kept"):
    for name, counts in getattr(report, what).items():
      splits = ", ".join(f"{split} {n:,}" for split, n in counts.items())
      print(f"{what}: {name} ({splits})")
  if report.missing:
    print(f"missing: {', '.join(report.missing)}")
  for name, reason in report.failed.items():
    print(f"Error: {name} is not built. {reason}", file=sys.stderr)
  if report.failed:
    sys.exit(1)


if __name__ == "__main__":
  app.run(main)
