"""Tests of the data that a run reads: checks, cuts and messages."""

import dataclasses
import inspect

from damages import DAMAGES
import pytest
import seqio
import tensorflow as tf
import tiny

from prompt_tuning.data import text_pairs
from prompt_tuning.mini.ladder.vocabulary import WordVocabulary
from t5x.input import damage as damage_lib
from t5x.input import pipelines, truncation
from t5x.runs import plan as plan_lib
from t5x.runs import run_data

# With the end of sequence, the inputs have 4, 9, 7 and 2 bytes, the targets 2.
INPUTS = ["abc", "abcdefgh", "abcdef", "a"]


def _dataset(split, shuffle_files=False, seed=None):
  return tf.data.Dataset.from_tensor_slices(
    {"inputs": INPUTS, "targets": ["y"] * len(INPUTS)}
  )


@seqio.map_over_dataset
def _not_empty(example):
  if tf.strings.length(example["inputs"]) == 0:  # This needs AutoGraph.
    example["inputs"] = "nothing"
  return example


for _name, _first in (("cut_a", ()), ("cut_b", (_not_empty,))):
  seqio.TaskRegistry.add(
    _name,
    seqio.FunctionDataSource(_dataset, splits=["train"]),
    preprocessors=[
      *_first,
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


def test_functions_are_not_rewritten_where_a_pipeline_can_do_without():
  files = []

  def same(x):
    files.append(inspect.currentframe().f_code.co_filename)
    return x

  assert list(pipelines.build(tf.data.Dataset.range(2).map, same)) == [0, 1]
  assert files == [__file__]


def test_lost_tokens_are_counted_and_described():
  config = _config(inputs=6, targets=1)
  cuts = truncation.count_cuts(config)
  of_task = {
    "inputs": {"examples": 2, "of": 4, "tokens": 4, "longest": 9},
    "targets": {"examples": 4, "of": 4, "tokens": 4, "longest": 2},
  }
  assert cuts == {"cut_a": of_task}
  assert next(truncation.describe(cuts, config)) == (
    "cut_a, train split: 2 of the 4 inputs are cut to 6 tokens and lose 4; the "
    "longest has 9."
  )
  mixture = _config("cut_mixture", inputs=6, targets=1)
  both = {"cut_a": of_task, "cut_b": of_task}
  assert truncation.count_cuts(mixture) == both
  # Only the feature that is asked for is counted.
  del of_task["inputs"]
  assert truncation.count_cuts(mixture, "targets") == both
  for lengths in ({}, {"inputs": 9, "targets": 2}):
    assert truncation.count_cuts(_config(**lengths)) == {}


def test_few_unknown_pieces_are_told():
  words = WordVocabulary(("a", "b"))
  pairs = [("a b " * 10 + "c", "a"), ("b", "b")]  # 1 of 24 is unknown.
  config = tiny.dataset_config(
    mixture_or_task_name=text_pairs.make({"train": pairs}, words, []).task,
    task_feature_lengths={"inputs": 30, "targets": 3},
    max_unknown=0.1,
  )
  (said,) = truncation.check_known(config)
  assert "does not know 4.2% of the pieces of the inputs" in said
  assert not list(truncation.check_known(_config(inputs=30, targets=3)))


def test_task_that_makes_examples_of_the_lengths_is_left_out():
  def corrupt(dataset, sequence_length):
    return dataset

  task = seqio.TaskRegistry.get("cut_a").replace(
    name="corrupted", preprocessors=[seqio.preprocessors.tokenize, corrupt]
  )
  assert not truncation.count_cuts(_config(task, inputs=1, targets=1))


@pytest.mark.parametrize("damage", ["a bit flipped", "cut off"])
def test_a_damaged_file_of_examples_is_named(tmp_path, damage):
  path = tmp_path / "x.tfrecord-00000-of-00001"
  with tf.io.TFRecordWriter(str(path)) as writer:
    writer.write(b"text" * 9)
  source = seqio.FileDataSource(tf.data.TFRecordDataset, {"train": str(path)})
  cfg = _config(seqio.Task("damaged", source, {}))

  @plan_lib.with_arguments_of(dataclasses.make_dataclass("Plan", ["cfg", "n"]))
  def read(plan):
    rows = list(plan.cfg.task_or_mixture().source.get_dataset("train"))
    tf.debugging.assert_equal(len(rows), plan.n, "As a preprocessor may.")

  read(cfg=cfg, n=1)
  with pytest.raises(ValueError, match="of damaged cannot be prepared: As a"):
    read(cfg=cfg, n=2)
  DAMAGES[damage](path)
  with pytest.raises(ValueError, match=f"in {path} cannot .* Get another"):
    read(cfg=cfg, n=1)


def test_a_file_of_lines_is_not_taken_for_damaged_records(tmp_path):
  path = tmp_path / "x.txt"
  path.write_text("not a number\n")
  source = seqio.TextLineDataSource({"train": str(path)})
  cfg = _config(seqio.Task("lines", source, {}))
  with (
    pytest.raises(ValueError, match=r"of lines cannot be .*StringTo"),
    damage_lib.named([cfg]),
  ):
    list(source.get_dataset("train").map(tf.strings.to_number))


def test_what_is_cut_for_the_loss_is_not_said_of_the_scores(tmp_path, base):
  lengths = {"inputs": 2, "targets": 2}
  cfg = tiny.dataset_config(split="validation", task_feature_lengths=lengths)
  plan = tiny.make_plan(tmp_path, base, train_eval_dataset_cfg=cfg)
  cfgs = run_data.bind(plan)
  with truncation.counted_meanwhile(cfgs) as count_cuts:
    data = run_data.read(plan, cfgs, 0, count_cuts)
  data.evaluator.close()
  assert set(data.facts["cut"]) == {"training", "loss", "scores"}
  assert data.facts["cut"]["loss"][tiny.TASK]["inputs"]["examples"] > 0
  assert not data.facts["cut"]["scores"]
  assert any(
    x.startswith(f"For the loss: {tiny.TASK}, validation split")
    for x in data.notices
  )
