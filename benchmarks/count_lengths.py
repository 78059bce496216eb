"""Counts the lengths of SuperGLUE's examples, for `compare.py`.

  python benchmarks/count_lengths.py --tfds_data_dir=D --vocabulary=FILE

Writes `benchmarks/lengths.json`: task -> the split, and for inputs and targets
the number of examples of each length in tokens, with the end token. It holds
no text.
"""

import t5x.utils  # noqa: F401  Before what imports TensorFlow.

# isort: split

import collections
import json
import pathlib

from absl import app, flags, logging
import seqio

from prompt_tuning.data import superglue
from prompt_tuning.data import vocabulary as vocabulary_lib

FLAGS = flags.FLAGS
flags.DEFINE_string(
  "tfds_data_dir", None, "Where the TFDS data is.", required=True
)
flags.DEFINE_string(
  "vocabulary", None, "T5's SentencePiece file.", required=True
)
FILE = pathlib.Path(__file__).parent / "lengths.json"


def count(task: str) -> dict[str, object] | None:
  """Counts the training split of a task, or its validation split."""
  for split in ("train", "validation"):
    try:
      dataset = seqio.get_mixture_or_task(task).get_dataset(
        {"inputs": 10_000, "targets": 10_000}, split, shuffle=False
      )
    except ValueError:
      continue
    counts = {name: collections.Counter() for name in ("inputs", "targets")}
    for example in dataset.as_numpy_iterator():
      for name, counter in counts.items():
        counter[len(example[name])] += 1
    return {
      "split": split,
      **{name: dict(sorted(x.items())) for name, x in counts.items()},
    }
  return None


def main(argv: list[str]) -> None:
  if len(argv) > 1:
    raise app.UsageError(f"Expected flags only, got {argv[1:]}.")
  logging.set_verbosity(logging.ERROR)
  seqio.set_tfds_data_dir_override(FLAGS.tfds_data_dir)
  vocabulary_lib.of_model(seqio.SentencePieceVocabulary(FLAGS.vocabulary, 100))
  counts = {
    row.name: found
    for row in superglue.SUPER_GLUE
    if (found := count(f"super_glue_{row.name}"))
  }
  if not counts:
    raise app.UsageError(f"Expected SuperGLUE in {FLAGS.tfds_data_dir}.")
  lines = (f"  {json.dumps(k)}: {json.dumps(v)}" for k, v in counts.items())
  FILE.write_text("{\n" + ",\n".join(lines) + "\n}\n")
  for name, found in counts.items():
    print(f"{name}: {sum(found['inputs'].values()):,} of {found['split']}")


if __name__ == "__main__":
  app.run(main)
