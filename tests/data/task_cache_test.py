"""The offline cache: seqio reads what was written, and guards its tokens."""

from concurrent import futures
import functools
import json

import pytest
import seqio
import tensorflow as tf
import tiny

from prompt_tuning.data import task_cache, vocabulary
from t5x import utils

ROWS = [{"inputs": f"text {i}", "targets": "y", "idx": i} for i in range(100)]


def _dataset(split, shuffle_files=False, seed=None, *, rows=ROWS):
  rows = rows if split == "train" else rows[:10]
  return tf.data.Dataset.from_tensor_slices(
    {name: [row[name] for row in rows] for name in rows[0]}
  )


def _add_task(
  name, *, placeholder=True, dataset=_dataset, splits=("train", "validation")
):
  seqio.TaskRegistry.add(
    name,
    seqio.FunctionDataSource(dataset, splits=splits),
    preprocessors=[
      seqio.preprocessors.tokenize,
      *([seqio.CacheDatasetPlaceholder()] if placeholder else []),
      seqio.preprocessors.append_eos_after_trim,
    ],
    output_features={
      feature: seqio.Feature(vocabulary.MODEL_VOCABULARY)
      for feature in ("inputs", "targets")
    },
  )
  return seqio.get_mixture_or_task(name)


@pytest.fixture(autouse=True)
def byte_model():
  return tiny.make_model()


@pytest.fixture
def cache_dir(tmp_path, monkeypatch):
  """A folder in which seqio looks for caches."""
  monkeypatch.setattr(seqio.utils, "_GLOBAL_CACHE_DIRECTORIES", [])
  seqio.add_global_cache_dirs([str(tmp_path)])
  return tmp_path


@pytest.fixture
def task(request):
  name = f"cached_{request.node.name}"
  yield _add_task(name)
  seqio.TaskRegistry.remove(name)


def _read(task, split, use_cached):
  dataset = task.get_dataset(None, split, use_cached=use_cached, shuffle=False)
  return [
    {
      name: value if isinstance(value, bytes) else value.tolist()
      for name, value in example.items()
    }
    for example in dataset.as_numpy_iterator()
  ]


def test_seqio_reads_the_same_examples(cache_dir, task):
  assert task_cache.write(task, cache_dir) == {"train": 100, "validation": 10}
  for split in ("train", "validation"):
    cached, made = (_read(task, split, use) for use in (True, False))
    assert sorted(cached, key=lambda x: x["idx"]) == made
  # Evaluation keeps its order, training is shuffled.
  assert _read(task, "validation", True) == _read(task, "validation", False)
  assert _read(task, "train", True) != _read(task, "train", False)
  assert task.get_cached_stats("train")["examples"] == 100
  info = json.loads((cache_dir / task.name / "info.train.json").read_text())
  assert info["num_shards"] == 16
  assert info["features"]["inputs"] == {"shape": [None], "dtype": "int32"}
  assert info["features"]["idx"] == {"shape": [], "dtype": "int32"}


def test_a_later_call_writes_the_splits_that_are_missing(cache_dir, task):
  assert task_cache.write(task, cache_dir, ["validation"]) == {"validation": 10}
  (info,) = (cache_dir / task.name).glob("info.*")
  written = info.stat().st_mtime_ns
  assert task_cache.write(task, cache_dir) == {"train": 100}
  assert task_cache.write(task, cache_dir) == {}
  assert info.stat().st_mtime_ns == written
  assert len(_read(task, "train", True)) == 100
  assert _read(task, "validation", True) == _read(task, "validation", False)
  with pytest.raises(ValueError, match="has no split 'dev'"):
    task_cache.write(task, cache_dir, ["dev"])


def test_of_a_mixtures_tasks_the_splits_that_they_have(cache_dir):
  splits = {"both": ["train", "validation"], "one": ["train"], "no": ["test"]}
  names = {key: f"cached_mixed_{key}" for key in splits}
  for key, name in names.items():
    _add_task(name, splits=splits[key])
  mixture = seqio.MixtureRegistry.add(
    "cached_mixture", list(names.values()), default_rate=1
  )
  written = task_cache.write_all(mixture, cache_dir, ["train", "validation"])
  assert dict(written) == {
    names["both"]: {"train": 100, "validation": 10},
    names["one"]: {"train": 100},
  }
  assert not (cache_dir / names["no"]).exists()
  with pytest.raises(ValueError, match="cached_mixture has no split 'dev'"):
    list(task_cache.write_all(mixture, cache_dir, ["train", "dev"]))
  (of_one,) = task_cache.write_all(mixture, cache_dir, ["test"])
  assert of_one == (names["no"], {"test": 10})


def test_two_that_write_one_cache_write_it_once(cache_dir, task):
  with futures.ThreadPoolExecutor() as pool:
    written = [*pool.map(lambda _: task_cache.write(task, cache_dir), range(2))]
  assert sorted(map(len, written)) == [0, len(task.splits)]
  assert len(_read(task, "train", True)) == 100


def test_failure_leaves_nothing(cache_dir):
  def broken(split, shuffle_files=False, seed=None):
    return _dataset(split).map(
      lambda x: {**x, "inputs": tf.strings.as_string(x["idx"][0])}
    )

  task = _add_task("cached_without_placeholder", placeholder=False)
  with pytest.raises(ValueError, match=r"to have a seqio.CacheDatasetPlaceh"):
    task_cache.write(task, cache_dir)
  task = _add_task("cached_broken", dataset=broken)
  with pytest.raises(ValueError, match="slice"):
    task_cache.write(task, cache_dir)
  assert [x.suffix for x in cache_dir.iterdir()] == [".lock"]


def test_cache_of_another_vocabulary_is_refused(byte_model, cache_dir, task):
  verify = functools.partial(
    utils.verify_matching_vocabs,
    tiny.dataset_config(mixture_or_task_name=task.name, use_cached=True),
    byte_model,
  )
  with pytest.raises(ValueError, match=r"is in none of --seqio_additional"):
    verify()
  task_cache.write(task, cache_dir)
  verify()
  # The same text under ids that are one higher.
  files = list((cache_dir / task.name).glob("train.tfrecord*"))
  records = [
    tf.train.Example.FromString(record)
    for file in files
    for record in tf.data.TFRecordDataset(str(file)).as_numpy_iterator()
  ]
  for file in files:
    with tf.io.TFRecordWriter(str(file)) as writer:
      for example in records:
        ids = example.features.feature["inputs"].int64_list.value
        ids[0] += 1
        writer.write(example.SerializeToString())
  with pytest.raises(ValueError, match="tokens of another vocabulary"):
    verify()


def test_cache_is_not_continued_with_another_vocabulary(cache_dir, task):
  task_cache.write(task, cache_dir, ["train"])
  vocabulary.of_model(seqio.ByteVocabulary(extra_ids=7))
  for splits in (["train"], ["validation"]):
    with pytest.raises(
      ValueError, match=r"info\.train\.json to have tokens of"
    ):
      task_cache.write(task, cache_dir, splits)
