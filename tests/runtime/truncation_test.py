"""Examples that are cut to TASK_FEATURE_LENGTHS are counted and reported."""

import pytest
import seqio
import tensorflow as tf
import tiny

from t5x.input import truncation

# With the end of sequence, the inputs have 4, 9, 7 and 2 bytes, the targets 2.
INPUTS = ["abc", "abcdefgh", "abcdef", "a"]


def _dataset(split, shuffle_files=False, seed=None):
  return tf.data.Dataset.from_tensor_slices(
    {"inputs": INPUTS, "targets": ["y"] * len(INPUTS)}
  )


for _name in ("cut_a", "cut_b"):
  seqio.TaskRegistry.add(
    _name,
    seqio.FunctionDataSource(_dataset, splits=["train"]),
    preprocessors=[
      seqio.preprocessors.tokenize,
      seqio.CacheDatasetPlaceholder(),
      seqio.preprocessors.append_eos_after_trim,
    ],
    output_features={
      feature: seqio.Feature(seqio.ByteVocabulary())
      for feature in ("inputs", "targets")
    },
  )
seqio.MixtureRegistry.add("cut_mixture", ["cut_a", "cut_b"], default_rate=1)


def _config(name="cut_a", **lengths):
  return tiny.dataset_config(
    mixture_or_task_name=name, task_feature_lengths=lengths or None
  )


def test_lost_tokens_are_counted_and_described():
  config = _config(inputs=6, targets=2)
  cuts = truncation.count_cuts(config)
  cut = {"examples": 2, "of": 4, "tokens": 4, "longest": 9}
  assert cuts == {"cut_a": {"inputs": cut}}
  assert list(truncation.describe(cuts, config)) == [
    "cut_a, train split: 2 of the 4 inputs are cut to 6 tokens and lose 4; the "
    "longest has 9."
  ]


_ALL = {"examples": 4, "of": 4, "tokens": 4, "longest": 2}


@pytest.mark.parametrize(
  ("name", "lengths", "only", "expected"),
  [
    (
      "cut_mixture",
      {"inputs": 9, "targets": 1},
      None,
      {"cut_a": {"targets": _ALL}, "cut_b": {"targets": _ALL}},
    ),
    # What is used, and nothing else.
    (
      "cut_a",
      {"inputs": 6, "targets": 1},
      "targets",
      {"cut_a": {"targets": _ALL}},
    ),
    ("cut_a", {}, None, {}),
    ("cut_a", {"inputs": 9, "targets": 2}, None, {}),
  ],
)
def test_what_is_cut_and_used_is_counted(name, lengths, only, expected):
  assert truncation.count_cuts(_config(name, **lengths), only) == expected


def test_task_that_makes_examples_of_the_lengths_is_left_out():
  def corrupt(dataset, sequence_length):
    return dataset.map(
      lambda x: {k: x[k][: sequence_length[k]] for k in ("inputs", "targets")}
    )

  task = seqio.TaskRegistry.get("cut_a")
  seqio.TaskRegistry.add(
    "made_to_length",
    task.source,
    preprocessors=[seqio.preprocessors.tokenize, corrupt],
    output_features=task.output_features,
  )
  assert not truncation.count_cuts(
    _config("made_to_length", inputs=6, targets=2)
  )
