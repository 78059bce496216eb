"""seqio's offline cache of a task, written without Apache Beam.

It holds preprocessed examples, tokenized with one vocabulary. Runs with
`USE_CACHED_TASKS=True` and `--seqio_additional_cache_dirs` read it.
"""

from collections.abc import Iterable, Mapping
import json
import os
import pathlib
import random
import shutil

import filelock
import seqio
import tensorflow as tf
import tqdm

from prompt_tuning import project_files
from prompt_tuning.data import vocabulary as vocabulary_lib

# The number of files that seqio reads at once, so that examples shuffle well.
_TRAIN_SHARDS = 16
# Key in seqio's information on a split: feature -> hash of its vocabulary.
_VOCABULARIES = "vocabularies"


def write(
  task: seqio.Task, cache_dir: pathlib.Path, splits: Iterable[str] | None = None
) -> dict[str, int]:
  """Writes a task's cache, except for splits that exist already.

  The examples of the train split are dealt to the files at random; other splits
  keep their order.

  Args:
    task: A task with a `seqio.CacheDatasetPlaceholder`.
    cache_dir: The folder where seqio expects `<task>/COMPLETED`.
    splits: The splits to write; all of the task by default.

  Returns:
    Split -> number of written examples; empty if all splits existed.

  Raises:
    ValueError: if the task cannot be cached or lacks its data, or if the
      existing cache has tokens of another vocabulary.
  """
  if not task.supports_caching:
    raise ValueError(
      f"Expected {task.name} to have a seqio.CacheDatasetPlaceholder among its "
      "preprocessors, got none."
    )
  cache_dir.mkdir(parents=True, exist_ok=True)
  # If another process writes the cache, wait for it; nothing is left to do
  # then.
  with filelock.FileLock(cache_dir / f".{task.name}.lock"):
    folder = cache_dir / task.name
    complete = folder / "COMPLETED"
    if not complete.exists():
      shutil.rmtree(folder, ignore_errors=True)
    vocabularies = {
      name: vocabulary_lib.sha256(feature.vocabulary)
      for name, feature in task.output_features.items()
    }
    for path in folder.glob("info.*.json"):
      # Caches of other tools have no hash. Runs compare their first tokens.
      if read_vocabularies(path) not in (None, vocabularies):
        raise ValueError(
          f"{path} was tokenized with a vocabulary other than the one in use. "
          f"Remove {folder}, or give another --output_cache_dir."
        )
    partial = cache_dir / f".{task.name}.incomplete"
    shutil.rmtree(partial, ignore_errors=True)
    partial.mkdir()
    try:
      counts = {
        split: _write_split(task, split, partial, vocabularies)
        for split in splits or task.splits
        if not os.path.exists(seqio.get_cached_info_path(str(folder), split))
      }
      folder.mkdir(exist_ok=True)
      # The information file comes last, because it marks a split as complete.
      for path in sorted(
        partial.iterdir(), key=lambda path: path.name.startswith("info.")
      ):
        path.replace(folder / path.name)
      complete.touch()
    finally:
      shutil.rmtree(partial, ignore_errors=True)
  return counts


def read_vocabularies(path: pathlib.Path) -> dict[str, str] | None:
  """Reads the hash of each feature's vocabulary from a split's information.

  Raises:
    ValueError: if the file is damaged.
  """
  remedy = f"Remove {path.parent}, and write the cache again."
  with project_files.parsing(path, "information on a cache", remedy):
    return json.loads(path.read_text(encoding="utf-8")).get(_VOCABULARIES)


def _write_split(
  task: seqio.Task,
  split: str,
  folder: pathlib.Path,
  vocabularies: Mapping[str, str],
) -> int:
  dataset = task.preprocess_precache(
    task.source.get_dataset(split=split, shuffle=False)
  )
  num_shards = _TRAIN_SHARDS if split == "train" else 1
  prefix = seqio.get_cached_tfrecord_prefix(str(folder), split)
  writers = [
    tf.io.TFRecordWriter(f"{prefix}-{shard:05}-of-{num_shards:05}")
    for shard in range(num_shards)
  ]
  deal = random.Random(0)
  count = 0
  for example in tqdm.tqdm(
    dataset.as_numpy_iterator(), f"{task.name}, {split}", unit=" examples"
  ):
    serialized = seqio.dict_to_tfexample(example).SerializeToString()
    deal.choice(writers).write(serialized)
    count += 1
  for writer in writers:
    writer.close()
  info = {
    "num_shards": num_shards,
    # seqio parses the first axis with any length.
    "features": {
      name: {
        "shape": [None, *spec.shape[1:]] if spec.shape.rank else [],
        "dtype": spec.dtype.name,
      }
      for name, spec in dataset.element_spec.items()
    },
    "seqio_version": seqio.__version__,
    _VOCABULARIES: vocabularies,
  }
  for path, content in (
    (seqio.get_cached_info_path(str(folder), split), info),
    (seqio.get_cached_stats_path(str(folder), split), {"examples": count}),
  ):
    pathlib.Path(path).write_text(json.dumps(content))
  return count
