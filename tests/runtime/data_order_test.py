"""The batches of training are those of seqio, in seqio's order."""

import functools
import itertools

import numpy as np
import pytest
import seqio
import tiny

from prompt_tuning.data import task_cache
from prompt_tuning.data import vocabulary as vocabulary_lib
from t5x import schedules, trainer, utils

CACHED_TASK = "data_order_cached"
NUM_BATCHES = 20  # More than two epochs of 64 examples in batches of eight.


seqio.TaskRegistry.add(
  CACHED_TASK,
  seqio.FunctionDataSource(tiny.dataset, splits=["train"]),
  preprocessors=[
    seqio.preprocessors.tokenize,
    seqio.CacheDatasetPlaceholder(),
    seqio.preprocessors.append_eos_after_trim,
  ],
  output_features=seqio.TaskRegistry.get(tiny.TASK).output_features,
)


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


def _of_seqio(cfg, shard=0, num_shards=1):
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
    part = np.array_split(batch, num_shards)[shard]
    yield {name: np.stack([x[name] for x in part]) for name in batch[0]}


def _assert_same(ours, seqios):
  assert ours.keys() == seqios.keys()
  for name, values in seqios.items():
    np.testing.assert_array_equal(ours[name], values, err_msg=name)


@pytest.mark.parametrize(
  "overrides",
  [
    {"shuffle": False},
    {},
    {"seed": 7},
    {"pack": True, "task_feature_lengths": {"inputs": 24, "targets": 16}},
    {"mixture_or_task_name": CACHED_TASK, "use_cached": True},
    {
      "mixture_or_task_name": CACHED_TASK,
      "use_cached": True,
      "shuffle": False,
    },
  ],
  ids=["in order", "shuffled", "seed", "packed", "cached", "cached in order"],
)
@pytest.mark.parametrize("num_shards", [1, 2])
def test_batches_are_those_of_seqio(overrides, num_shards, cache_dir):
  cfg = tiny.dataset_config(**overrides)
  for shard in range(num_shards):
    ours = utils.get_dataset(
      cfg, shard, num_shards, seqio.EncDecFeatureConverter
    ).as_numpy_iterator()
    pairs = zip(ours, _of_seqio(cfg, shard, num_shards), strict=False)
    for batch, expected in itertools.islice(pairs, NUM_BATCHES):
      _assert_same(batch, expected)


class _Recorder(trainer.Trainer):
  """Keeps the batches that it trains on."""

  def __init__(self, *, batches, **kwargs):
    super().__init__(**kwargs)
    self._batches = batches

  def train_steps(self, batch_iter, *args, **kwargs):
    def recorded():
      for batch in batch_iter:
        self._batches.append(batch)
        yield batch

    return super().train_steps(recorded(), *args, **kwargs)


@pytest.mark.slow
def test_a_resumed_run_goes_on_in_the_order_of_seqio(tmp_path):
  base = tiny.save_base(tmp_path / "base")
  batches = []
  for steps in (3, 9):  # The second epoch begins behind step 8.
    tiny.train(
      tmp_path / "run",
      base,
      relative_steps=steps,
      trainer_cls=functools.partial(
        _Recorder,
        batches=batches,
        learning_rate_fn=schedules.create_learning_rate_scheduler(
          factors="constant", base_learning_rate=0.3
        ),
      ),
    )
  assert len(batches) == 9
  expected = _of_seqio(tiny.dataset_config())
  for batch, seqios in zip(batches, expected, strict=False):
    _assert_same(batch, seqios)
