"""Both miniatures through seqio, with the real tasks' metrics and features."""

import pytest
import seqio
import tensorflow as tf
from tensorflow_datasets.text import super_glue

from prompt_tuning import tasks
from prompt_tuning.data import superglue, vocabulary
from prompt_tuning.mini.ladder import vocabulary as ladder_vocabulary

LENGTHS = {"inputs": 512, "targets": 32}
ROWS = pytest.mark.parametrize(
  "row", superglue.SUPER_GLUE, ids=lambda row: row.name
)


@pytest.fixture(scope="module")
def ladder():
  return ladder_vocabulary.ladder()


@pytest.fixture(autouse=True)
def _vocabulary(monkeypatch, ladder):
  monkeypatch.setattr(vocabulary.MODEL_VOCABULARY, "in_use", ladder)


@ROWS
def test_features_and_labels_are_those_of_tfds(row, tmp_path):
  config = row.tfds_name.removeprefix("super_glue/").removesuffix(":1.0.2")
  builder = super_glue.SuperGlue(config=config, data_dir=tmp_path)
  expected = builder.info.features
  source = seqio.TaskRegistry.get(f"{tasks.MINI}_{row.name}").source
  dataset = source.get_dataset("test", shuffle=False)
  assert dataset.element_spec == expected.get_tensor_spec()
  for example in dataset.take(20):
    if "label" in example:
      assert example["label"] < expected["label"].num_classes
  if row.labels:
    assert tuple(expected["label"].names) == row.labels


@ROWS
@pytest.mark.parametrize("prefix", [tasks.MINI, tasks.LADDER])
def test_right_answers_score_100(row, prefix, ladder, monkeypatch):
  """Through the postprocessors and metrics of the real task."""
  if prefix == tasks.MINI:
    monkeypatch.setattr(
      vocabulary.MODEL_VOCABULARY, "in_use", seqio.ByteVocabulary()
    )
  task = seqio.get_mixture_or_task(f"{prefix}_{row.name}")
  dataset = task.get_dataset(LENGTHS, "validation", shuffle=False)
  batch = list(dataset.take(100).as_numpy_iterator())
  targets, predictions = [], []
  for example in batch:
    text = example["targets_pretokenized"].decode()
    if prefix == tasks.LADDER:
      assert len(example["inputs"]) < 64
      text = ladder.decode(example["targets"].tolist())
    targets.append(task.postprocess_fn(text, example=example, is_target=True))
    if row is superglue.WSC and not example["label"]:
      text = "nobody"
    predictions.append(task.postprocess_fn(text, example=example))
  assert len(batch) == 100
  for metric_fn in task.metric_fns:
    for name, value in metric_fn(targets, predictions).items():
      assert value == (0 if name == "invalid" else 100)


def test_order_depends_on_the_seed_alone():
  source = seqio.TaskRegistry.get("mini_cb").source

  def order(**arguments):
    dataset = source.get_dataset("test", **arguments)
    return [example["idx"] for example in dataset.as_numpy_iterator()]

  assert order(seed=1) == order(seed=1)
  assert order(seed=1) != order(seed=2)
  assert order(shuffle=False) == sorted(order(seed=1))


def test_mixtures_have_their_tasks():
  for name, count in (
    ("mini_super_glue", 8),
    ("mini_super_glue_prefixed", 8),
    ("ladder_prefixed", 5),
  ):
    mixture = seqio.get_mixture_or_task(name)
    assert len(mixture.tasks) == count
  dataset = mixture.get_dataset(LENGTHS, "validation", shuffle=False)
  assert dataset.element_spec["inputs"].dtype == tf.int32
