"""The mini tasks through seqio, against TFDS's own declaration of SuperGLUE."""

import pytest
import seqio
import tensorflow as tf
from tensorflow_datasets.text import super_glue

from prompt_tuning.data import superglue, vocabulary
from prompt_tuning.mini.stories import examples, tasks

LENGTHS = {"inputs": 512, "targets": 32}


@pytest.fixture(autouse=True)
def byte_vocabulary(monkeypatch):
  monkeypatch.setattr(
    vocabulary.MODEL_VOCABULARY, "in_use", seqio.ByteVocabulary()
  )


def builder(row, tmp_path):
  config = row.tfds_name.removeprefix("super_glue/").removesuffix(":1.0.2")
  return super_glue.SuperGlue(config=config, data_dir=tmp_path)


@pytest.mark.parametrize("row", superglue.SUPER_GLUE, ids=lambda row: row.name)
def test_features_are_those_of_tfds(row, tmp_path):
  expected = builder(row, tmp_path).info.features
  source = tasks.source_of(row.name)
  dataset = source.get_dataset("test", shuffle=False)
  assert dataset.element_spec == expected.get_tensor_spec()
  for example in dataset.take(20):
    if "label" in example:
      assert example["label"] < expected["label"].num_classes


@pytest.mark.parametrize("row", superglue.SUPER_GLUE, ids=lambda row: row.name)
def test_labels_mean_what_they_mean_in_tfds(row, tmp_path):
  if row.labels:
    names = builder(row, tmp_path).info.features["label"].names
    assert tuple(names) == row.labels


@pytest.mark.parametrize("row", superglue.SUPER_GLUE, ids=lambda row: row.name)
def test_right_answers_score_100(row):
  """Through the postprocessors and metrics of the real task."""
  task = seqio.get_mixture_or_task(f"mini_{row.name}")
  dataset = task.get_dataset(LENGTHS, "validation", shuffle=False)
  batch = list(dataset.as_numpy_iterator())
  assert len(batch) == examples.EXAMPLES_PER_SPLIT["validation"]
  targets, predictions = [], []
  for example in batch:
    text = example["targets_pretokenized"].decode()
    targets.append(task.postprocess_fn(text, example=example, is_target=True))
    if row is superglue.WSC and not example["label"]:
      text = "nobody"
    predictions.append(task.postprocess_fn(text, example=example))
  for metric_fn in task.metric_fns:
    for name, value in metric_fn(targets, predictions).items():
      assert value == (0 if name == "invalid" else 100)


def test_wsc_trains_on_right_referents_only():
  task = seqio.get_mixture_or_task("mini_wsc")
  dataset = task.get_dataset(LENGTHS, "train", shuffle=False)
  labels = [example["label"] for example in dataset.as_numpy_iterator()]
  assert labels == [1] * 1_000


def test_order_depends_on_the_seed_alone():
  source = tasks.source_of("cb")

  def order(**arguments):
    dataset = source.get_dataset("test", **arguments)
    return [example["idx"] for example in dataset.as_numpy_iterator()]

  assert order(seed=1) == order(seed=1)
  assert order(seed=1) != order(seed=2)
  assert order(shuffle=False) == sorted(order(seed=1))


@pytest.mark.parametrize(
  "name", ["mini_super_glue", "mini_super_glue_prefixed"]
)
def test_the_mixture_has_all_tasks(name):
  mixture = seqio.get_mixture_or_task(name)
  assert len(mixture.tasks) == len(examples.TASKS)
  dataset = mixture.get_dataset(LENGTHS, "train", shuffle=False)
  assert dataset.element_spec["inputs"].dtype == tf.int32
