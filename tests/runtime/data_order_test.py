"""Tests that batches equal seqio's, in its order and the model's tokens."""

import itertools
import types

import numpy as np
import pytest
import seqio
import tiny

from prompt_tuning import tasks  # noqa: F401
from prompt_tuning.data import task_cache
from prompt_tuning.data import vocabulary as vocabulary_lib
from t5x import multihost, utils
from t5x.input import datasets, in_memory

CACHED_TASK = "data_order_cached"
FEWER_TASK = "data_order_fewer"
TASK_OF_DEV = "data_order_dev"
MIXTURE = "data_order_mixture"
NUM_BATCHES = 20  # More than two epochs of 64 examples in batches of eight.


def _fewer(split, shuffle_files=False, seed=None):
  return tiny.dataset(split, shuffle_files, seed).skip(16)


_CACHEABLE = [
  seqio.preprocessors.tokenize,
  seqio.CacheDatasetPlaceholder(),
  seqio.preprocessors.append_eos_after_trim,
]
for _name, _dataset, _split, _count, _preprocessors in (
  (CACHED_TASK, tiny.dataset, "train", 64, _CACHEABLE),
  (FEWER_TASK, _fewer, "train", 48, _CACHEABLE),
  (TASK_OF_DEV, tiny.dataset, "validation", 20, _CACHEABLE[::2]),
):
  seqio.TaskRegistry.add(
    _name,
    seqio.FunctionDataSource(
      _dataset, splits=[_split], num_input_examples={_split: _count}
    ),
    preprocessors=_preprocessors,
    output_features=seqio.TaskRegistry.get(tiny.TASK).output_features,
  )
seqio.MixtureRegistry.add(MIXTURE, [(CACHED_TASK, 1.0), (FEWER_TASK, 3.0)])


@pytest.fixture(autouse=True)
def vocabulary():
  vocabulary_lib.of_model(seqio.ByteVocabulary())


@pytest.fixture(scope="module")
def cache_dir(tmp_path_factory):
  """A folder with the cached task, in which seqio looks for caches."""
  vocabulary_lib.of_model(seqio.ByteVocabulary())
  folder = tmp_path_factory.mktemp("cache")
  task_cache.write(seqio.TaskRegistry.get(CACHED_TASK), folder)
  with pytest.MonkeyPatch.context() as patch:
    patch.setattr("seqio.utils._GLOBAL_CACHE_DIRECTORIES", [str(folder)])
    yield folder


def _batches(cfg, rows=None):
  return utils.get_dataset(cfg, rows, seqio.EncDecFeatureConverter)


def _of_seqio(cfg, rows=None):
  """Yields seqio's batches for one process, cut without tf.data."""
  examples = seqio.get_dataset(
    cfg.mixture_or_task_name,
    cfg.task_feature_lengths,
    dataset_split=cfg.split,
    shuffle=cfg.shuffle,
    num_epochs=None,
    feature_converter=seqio.EncDecFeatureConverter(pack=cfg.pack),
    use_cached=cfg.use_cached,
    seed=cfg.seed,
  ).as_numpy_iterator()
  while batch := list(itertools.islice(examples, cfg.batch_size)):
    part = batch if rows is None else [batch[row] for row in rows]
    yield {name: np.stack([x[name] for x in part]) for name in batch[0]}


def test_processes_agree_on_a_seed_that_is_drawn(monkeypatch):
  """With different seeds, some examples would repeat and others be missing."""
  monkeypatch.setattr(multihost, "from_first_process", lambda drawn: 3)

  def first(seed, rows):
    batches = _batches(tiny.dataset_config(seed=seed), rows)
    return next(batches.as_numpy_iterator())["encoder_input_tokens"]

  half = tiny.BATCH_SIZE // 2
  parts = [
    first(None, range(half)),
    first(None, range(half, tiny.BATCH_SIZE)),
  ]
  np.testing.assert_array_equal(np.concatenate(parts), first(3, None))


CASES = {
  "in order": {"shuffle": False},
  "shuffled": {},
  "some rows": {"seed": 7, "rows": (0, 3, 5)},
  "packed": {
    "pack": True,
    "task_feature_lengths": {"inputs": 24, "targets": 16},
  },
  "in memory": {"mixture_or_task_name": CACHED_TASK, "seed": 7},
  # The shuffle buffer holds 1,000 of 4,000 examples.
  "beyond the buffer": {
    "mixture_or_task_name": "ladder_cb",
    "task_feature_lengths": {"inputs": 28, "targets": 4},
    "batch_size": 500,
  },
  "mixture": {"mixture_or_task_name": MIXTURE, "seed": 7},
  "cached": {"mixture_or_task_name": CACHED_TASK, "use_cached": True},
}
SLOW_CASES = ("packed", "beyond the buffer", "some rows", "cached")


@pytest.mark.parametrize(
  "case",
  [
    pytest.param(x, marks=[pytest.mark.slow] * (x in SLOW_CASES)) for x in CASES
  ],
)
def test_batches_are_those_of_seqio(case, cache_dir):
  overrides = dict(CASES[case])
  rows = overrides.pop("rows", None)
  cfg = tiny.dataset_config(**overrides)
  expected = list(itertools.islice(_of_seqio(cfg, rows), NUM_BATCHES))
  assert len(expected) == NUM_BATCHES
  # A resumed run starts after 11 batches, in the second epoch.
  for done in (0, 11):
    batches = _batches(cfg, rows).skip(done).take(NUM_BATCHES - done)
    for batch, seqios in zip(
      batches.as_numpy_iterator(), expected[done:], strict=True
    ):
      np.testing.assert_equal(batch, seqios)


def test_examples_fit_into_memory_where_there_is_no_chance_in_them():
  task = seqio.TaskRegistry.get(CACHED_TASK)
  assert in_memory.is_possible(task, "train")
  ladder = seqio.TaskRegistry.get("ladder_cb")
  assert in_memory.is_possible(ladder, "train")
  # These have no cache placeholder, no known or small size, or randomness.
  assert not in_memory.is_possible(seqio.TaskRegistry.get(tiny.TASK), "train")
  sources = [
    seqio.FunctionDataSource(tiny.dataset, ["train"], count)
    for count in (None, {"train": in_memory.MAX_EXAMPLES + 1})
  ]
  for other in (
    *(task.replace(source=source) for source in sources),
    task.replace(shuffle_buffer_size=None),
    task.replace(
      preprocessors=[*task.preprocessors, seqio.preprocessors.print_dataset]
    ),
  ):
    assert not in_memory.is_possible(other, "train")
  # A mixture fits where all of its tasks do.
  assert in_memory.is_possible(seqio.MixtureRegistry.get(MIXTURE), "train")
  with_other = seqio.Mixture("x", [CACHED_TASK, tiny.TASK], default_rate=1.0)
  assert not in_memory.is_possible(with_other, "train")


def test_examples_are_counted_where_a_task_lacks_the_split():
  name = "data_order_lacking"
  seqio.MixtureRegistry.add(name, [(CACHED_TASK, 1.0), (TASK_OF_DEV, 1.0)])
  cfg = tiny.dataset_config(mixture_or_task_name=name)
  assert cfg.num_input_examples() == 64


def test_no_thread_tunes_the_pipeline_which_the_end_of_a_run_would_wait_for():
  assert not _batches(tiny.dataset_config()).options().autotune.enabled


class _Shifted(seqio.ByteVocabulary):
  """A byte vocabulary with other ids."""

  def _encode_tf(self, s):
    return super()._encode_tf(s) + 1


def _model(vocabulary):
  return types.SimpleNamespace(
    input_vocabulary=vocabulary,
    output_vocabulary=vocabulary,
    module=None,
    ends_inputs=True,
  )


@pytest.mark.parametrize("name", [tiny.TASK, MIXTURE])
def test_each_model_gets_the_task_in_its_own_tokens(monkeypatch, name):
  # No model was chosen for the whole program.
  monkeypatch.setattr(vocabulary_lib.MODEL_VOCABULARY, "in_use", None)
  cfg = tiny.dataset_config(mixture_or_task_name=name, shuffle=False)
  models = [_model(seqio.ByteVocabulary(0)), _model(_Shifted(0))]
  bound = [datasets.for_model(cfg, model) for model in models]
  first, second = (
    next(_batches(x).as_numpy_iterator())["encoder_input_tokens"] for x in bound
  )
  np.testing.assert_array_equal(second, np.where(first > 1, first + 1, first))
  for x, model in zip(bound, models, strict=True):
    assert x.name == name
    features = x.task_or_mixture().output_features
    assert features["targets"].vocabulary is model.output_vocabulary


def test_task_with_a_vocabulary_of_its_own_keeps_it():
  own = seqio.ByteVocabulary(7)
  task = seqio.TaskRegistry.get(tiny.TASK).replace(
    output_features={name: seqio.Feature(own) for name in tiny.LENGTHS}
  )
  cfg = tiny.dataset_config(mixture_or_task_name=task)
  model = _model(seqio.ByteVocabulary(7))
  assert datasets.for_model(cfg, model).task_or_mixture() is task


def test_name_is_registered_for_a_while():
  task = seqio.TaskRegistry.get(tiny.TASK)
  with datasets.registered(task) as name:
    assert seqio.get_mixture_or_task(name) is task
  assert name not in seqio.TaskRegistry.names()


def test_task_of_two_mixtures_is_one_task():
  """The rates of the task add up, as in seqio, and it occurs once."""
  add = seqio.MixtureRegistry.add
  inner = add("bound_inner", [(tiny.TASK, 1.0), (tiny.OTHER_TASK, 1.0)])
  outer = add("bound_outer", [(inner.name, 2.0), (tiny.TASK, 1.0)])
  cfg = tiny.dataset_config(mixture_or_task_name=outer.name)
  bound = datasets.for_model(cfg, tiny.make_model()).task_or_mixture()
  found = [(task.name, bound.get_rate(task)) for task in bound.tasks]
  assert found == [(task.name, outer.get_rate(task)) for task in outer.tasks]
