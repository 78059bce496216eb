"""Tests of the offline cache, which seqio reads and a vocabulary guards."""

from concurrent import futures
import dataclasses
import functools
import json
import shutil

import pytest
import seqio
import tiny

from prompt_tuning.commands import console
from prompt_tuning.data import task_cache, task_rows, text_pairs, vocabulary
from prompt_tuning.data.sources import ExampleSource
from prompt_tuning.mini.ladder import vocabulary as ladder_vocabulary
from t5x import utils

SIZES = {"train": 100, "validation": 10, "test": 10}
ROWS = [{"inputs": f"text {i}", "targets": "y", "idx": i} for i in range(100)]


def _add_task(name, splits=("train", "validation")):
  sizes = {split: SIZES[split] for split in splits}
  task_rows.add_task(
    name,
    dataclasses.replace(task_rows.TASKS[1], preprocess=lambda dataset: dataset),
    ExampleSource(lambda split: ROWS[: sizes[split]], sizes),
  )
  return seqio.get_mixture_or_task(name)


@pytest.fixture(autouse=True)
def byte_model():
  return tiny.make_model()


@pytest.fixture
def cache_dir(tmp_path, monkeypatch):
  """A folder that seqio searches for caches."""
  monkeypatch.setattr(seqio.utils, "_GLOBAL_CACHE_DIRECTORIES", [])
  seqio.add_global_cache_dirs([str(tmp_path)])
  return tmp_path


@pytest.fixture
def task(request):
  return _add_task(f"cached_{request.node.name}")


def _read(task, split, use_cached):
  dataset = task.get_dataset(None, split, use_cached=use_cached, shuffle=False)
  return [str(sorted(x.items())) for x in dataset.as_numpy_iterator()]


def test_seqio_reads_the_same_examples(cache_dir, task):
  assert task_cache.write(task, cache_dir) == {"train": 100, "validation": 10}
  for split in ("train", "validation"):
    cached, made = (_read(task, split, use) for use in (True, False))
    assert sorted(cached) == sorted(made)
  # Evaluation keeps its order; training is shuffled.
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


def test_of_a_mixtures_tasks_the_splits_that_they_have(cache_dir, capsys):
  splits = {"both": ["train", "validation"], "one": ["train"], "no": ["test"]}
  names = [_add_task(f"cached_{k}", splits=x).name for k, x in splits.items()]
  seqio.MixtureRegistry.add("cached_mixture", names, default_rate=1)
  words = ["cache", "--tasks=cached_mixture", "--vocabulary=ladder"]
  words += [f"--output_cache_dir={cache_dir}"]
  assert console.main([*words, "--splits=train,validation"]) == 0
  assert capsys.readouterr().out.splitlines() == [
    "cached_both: {'train': 100, 'validation': 10}",
    "cached_one: {'train': 100}",
  ]
  assert not (cache_dir / "cached_no").exists()
  assert console.main([*words, "--splits=train,dev"]) == 1
  assert "cached_mixture has no split 'dev'" in capsys.readouterr().err
  console.main([*words, "--splits=test"])
  assert capsys.readouterr().out == "cached_no: {'test': 10}\n"


def test_two_that_write_one_cache_write_it_once(cache_dir, task):
  with futures.ThreadPoolExecutor() as pool:
    written = [*pool.map(lambda _: task_cache.write(task, cache_dir), range(2))]
  assert sorted(map(len, written)) == [0, len(task.splits)]
  assert len(_read(task, "train", True)) == 100


def test_failure_leaves_nothing(cache_dir, task, monkeypatch):
  monkeypatch.setattr(task.source, "generate", {"train": ROWS}.__getitem__)
  with pytest.raises(KeyError, match="validation"):
    task_cache.write(task, cache_dir)
  assert [x.suffix for x in cache_dir.iterdir()] == [".lock"]
  made = text_pairs.make({"train": [("a", "b")]}, seqio.ByteVocabulary())
  with pytest.raises(ValueError, match=r"to have a seqio.CacheDatasetPlaceh"):
    task_cache.write(made.task, cache_dir)


def test_cache_of_another_vocabulary_is_refused(byte_model, cache_dir, task):
  verify = functools.partial(
    utils.verify_matching_vocabs,
    tiny.dataset_config(mixture_or_task_name=task.name, use_cached=True),
    byte_model,
  )
  with pytest.raises(ValueError, match=r"is in none of --seqio_additional"):
    verify()
  vocabulary.of_model(ladder_vocabulary.ladder())
  task_cache.write(task, cache_dir, ["train"])
  vocabulary.of_model(byte_model.input_vocabulary)
  with pytest.raises(ValueError, match="tokens of another vocabulary"):
    verify()
  # Writing does not extend that cache either.
  for splits in (["train"], ["validation"]):
    with pytest.raises(
      ValueError, match=r"info\.train\.json was tokenized with a vocab"
    ):
      task_cache.write(task, cache_dir, splits)
  shutil.rmtree(cache_dir / task.name)
  task_cache.write(task, cache_dir, ["train"])
  verify()
