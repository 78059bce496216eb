"""The batches of training are those of seqio, in seqio's order."""

import itertools

import numpy as np
import pytest
import seqio
import tiny

from prompt_tuning import tasks  # noqa: F401
from prompt_tuning.data import task_cache
from prompt_tuning.data import vocabulary as vocabulary_lib
from prompt_tuning.mini.ladder import vocabulary as ladder_vocabulary
from t5x import multihost, utils
from t5x.input import in_memory

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


def _of_seqio(cfg, rows=None):
  """What seqio gives to one process, in batches cut without tf.data."""
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
  """Each with its own would see some examples twice and others never."""
  monkeypatch.setattr(multihost, "from_first_process", lambda drawn: 3)

  def first(seed, rows):
    cfg = tiny.dataset_config(seed=seed)
    batches = utils.get_dataset(cfg, rows, seqio.EncDecFeatureConverter)
    return next(batches.as_numpy_iterator())["encoder_input_tokens"]

  half = tiny.BATCH_SIZE // 2
  parts = [
    first(None, range(half)),
    first(None, range(half, tiny.BATCH_SIZE)),
  ]
  np.testing.assert_array_equal(np.concatenate(parts), first(3, None))


def _assert_same(ours, seqios):
  assert ours.keys() == seqios.keys()
  for name, values in seqios.items():
    np.testing.assert_array_equal(ours[name], values, err_msg=name)


CASES = {
  "in order": {"shuffle": False},
  "shuffled": {},
  "seed": {"seed": 7},
  "some rows": {"seed": 7, "rows": (0, 3, 5)},
  "packed": {
    "pack": True,
    "task_feature_lengths": {"inputs": 24, "targets": 16},
  },
  "in memory": {"mixture_or_task_name": CACHED_TASK},
  "in memory, seed": {"mixture_or_task_name": CACHED_TASK, "seed": 7},
  "in memory, some rows": {
    "mixture_or_task_name": CACHED_TASK,
    "rows": (0, 3, 5),
  },
  "mixture": {"mixture_or_task_name": MIXTURE, "seed": 7},
  "cached": {"mixture_or_task_name": CACHED_TASK, "use_cached": True},
  "cached in order": {
    "mixture_or_task_name": CACHED_TASK,
    "use_cached": True,
    "shuffle": False,
  },
}


@pytest.mark.parametrize("case", CASES)
def test_batches_are_those_of_seqio(case, cache_dir):
  overrides = dict(CASES[case])
  rows = overrides.pop("rows", None)
  cfg = tiny.dataset_config(**overrides)
  expected = list(itertools.islice(_of_seqio(cfg, rows), NUM_BATCHES))
  # The second starts where a resumed run does, in the second epoch.
  for done in (0, 11):
    ours = utils.get_dataset(cfg, rows, seqio.EncDecFeatureConverter)
    batches = ours.skip(done).as_numpy_iterator()
    for batch, seqios in zip(batches, expected[done:], strict=False):
      _assert_same(batch, seqios)


def test_examples_fit_into_memory_where_there_is_no_chance_in_them():
  task = seqio.TaskRegistry.get(CACHED_TASK)
  assert in_memory.is_possible(task, "train")
  # Without a place for a cache, of an unknown number, and with chance.
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


def test_order_beyond_the_buffer_and_the_epoch_is_that_of_seqio():
  """The buffer has 1,000 of 4,000 examples."""
  vocabulary_lib.of_model(ladder_vocabulary.ladder())
  cfg = tiny.dataset_config(
    mixture_or_task_name="ladder_cb",
    task_feature_lengths={"inputs": 28, "targets": 4},
    batch_size=500,
  )
  assert in_memory.is_possible(cfg.task_or_mixture(), "train")
  ours = utils.get_dataset(cfg, None, seqio.EncDecFeatureConverter)
  pairs = zip(ours.as_numpy_iterator(), _of_seqio(cfg), strict=False)
  for batch, expected in itertools.islice(pairs, 18):
    _assert_same(batch, expected)


def test_examples_are_counted_where_a_task_lacks_the_split():
  name = "data_order_lacking"
  seqio.MixtureRegistry.add(name, [(CACHED_TASK, 1.0), (TASK_OF_DEV, 1.0)])
  cfg = tiny.dataset_config(mixture_or_task_name=name)
  assert cfg.num_input_examples() == 64


def test_no_thread_tunes_the_pipeline_which_the_end_of_a_run_would_wait_for():
  batches = utils.get_dataset(
    tiny.dataset_config(), None, seqio.EncDecFeatureConverter
  )
  assert not batches.options().autotune.enabled
