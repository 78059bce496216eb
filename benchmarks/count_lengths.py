"""Counts the lengths of SuperGLUE's examples, for `compare.py`.

  python benchmarks/count_lengths.py --tfds_data_dir=D --vocabulary=FILE

Writes `benchmarks/lengths.json`: task -> the split, and for inputs and targets
the number of examples of each length in tokens, with the end token. The file
contains no text.
"""

import t5x.utils  # noqa: F401  Before any import of TensorFlow.

# isort: split

import collections
import json

from absl import logging
import seqio

import harness
from prompt_tuning.data import task_rows
from prompt_tuning.data import vocabulary as vocabulary_lib


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


def main() -> None:
  parser = harness.parser(__doc__)
  for name in ("--tfds_data_dir", "--vocabulary"):
    parser.add_argument(name, required=True)
  args = parser.parse_args()
  logging.set_verbosity(logging.ERROR)
  seqio.set_tfds_data_dir_override(args.tfds_data_dir)
  vocabulary_lib.of_model(seqio.SentencePieceVocabulary(args.vocabulary, 100))
  counts = {
    row.name: found
    for row in task_rows.SUPER_GLUE
    if (found := count(f"super_glue_{row.name}"))
  }
  if not counts:
    parser.error(f"Expected SuperGLUE in {args.tfds_data_dir}.")
  lines = (f"  {json.dumps(k)}: {json.dumps(v)}" for k, v in counts.items())
  file = harness.ROOT / "benchmarks" / "lengths.json"
  file.write_text("{\n" + ",\n".join(lines) + "\n}\n")
  for name, found in counts.items():
    print(f"{name}: {sum(found['inputs'].values()):,} of {found['split']}")


if __name__ == "__main__":
  main()
