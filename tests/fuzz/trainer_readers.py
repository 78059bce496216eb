"""The readers of the trainer: gin files, checkpoints, records and locks."""

import json
import pathlib

from flax import traverse_util
from fuzz.reader import Reader, file, inside, lines, made, text
import numpy as np
from started import LOCK_ELSEWHERE
import t5x_folders

from t5x import checkpoints
from t5x.configuration import identity, reading, resolution
from t5x.files import digests, run_lock, safe_files
from t5x.formats import base_checkpoints, orbax, stored_arrays
from t5x.runs import metric_log, record_schema, records

_ARRAYS = {"a/kernel": np.ones((4, 6), np.float32), "b": np.ones(3, "f4")}
_GIN = """from __gin__ import dynamic_registration
# A comment.
import __main__ as train_script
from t5x import utils

SIZE = 7
LENGTHS = {"inputs": 512, 'targets': (62, None)}
train_script.train:
  model = %MODEL
  train_dataset_cfg = @train/utils.DatasetConfig()
train/utils.DatasetConfig.batch_size = %SIZE
train/utils.DatasetConfig.seed = -1.5e3
MODEL = @models.EncoderDecoderModel()
TEXT = "a\\nb" 'c'
"""
_EVALUATION = {
  "step": 1,
  "metrics": {"cb": {"accuracy": 75.0, "f1": 70.5}},
  "score": 72.75,
}
RECORD = record_schema.dump(
  {
    "schema": record_schema.VERSION,
    "kind": "train",
    "status": "finished",
    "started": "2026-01-01T00:00:00+00:00",
    "command": ["python", "-m", "t5x.train"],
    "versions": {"jax": "1"},
    "device": {"platform": "cpu"},
    "data": {"train": "cb", "lengths": {"inputs": 4}},
    "steps": {"first": 0, "last": 1},
    "step": 1,
    "evals": [_EVALUATION],
    "best": _EVALUATION,
  },
  "here",
)
_CONFIGURATION = identity.dump(
  identity.RunConfiguration("train", {"train.seed": "1", "a.b": "'x'"}),
  [{"step": 3, "name": "a.b", "old": None, "new": "'x'"}],
)
_FACTS = {
  "task": "cb",
  "first_step": 0,
  "base": {"path": "base", "fingerprint": "52cb"},
  "base_fingerprint": "52cb",
  "seed": 1,
  "shuffle_seed": 2,
  "evals": [_EVALUATION],
  "acted": {"TRAIN": [{"step": 1, "metrics": {"train": {"loss": 0.5}}}]},
  "is_stopped": False,
  "seconds": 1.5,
}


def _v3(folder: pathlib.Path) -> None:
  t5x_folders.write_v3(folder, 7, _ARRAYS)


def _base(folder: pathlib.Path) -> None:
  tree = traverse_util.unflatten_dict(_ARRAYS, sep="/")
  checkpoints.save_base_checkpoint(str(folder), 7, tree, {"name": "tiny"})


def _unsigned(folder: pathlib.Path) -> None:
  """Writes a checkpoint without digests, so that all its files are parsed."""
  _base(folder)
  (folder / "checkpoint_7" / digests.NAME).unlink()


def _read_model(path: pathlib.Path) -> None:
  base_checkpoints._refuse_damage.cache_clear()
  folder = next(x for x in path.parents if x.name == "checkpoint_7")
  opened = checkpoints.open_checkpoint(str(folder))
  stored_arrays.map_readers(
    opened.arrays,
    lambda name, read: read((slice(None),) * len(opened.arrays[name].shape)),
  )


def _partial(folder: pathlib.Path) -> None:
  file = safe_files.PartialFile(str(folder / "whole"))
  file.write([f"[{i}, {i}]\n" for i in range(20)])


def _read_partial(path: pathlib.Path) -> None:
  # The file is whole or is written again: missing lines are never counted.
  lines = safe_files.PartialFile(str(path.parents[1] / "whole")).num_lines
  assert lines in (0, 20)
  assert not lines or path.read_bytes().count(b"\n") == lines


_NAME = "checkpoint_7"
_STATE = f"{_NAME}/state"

READERS: dict[str, Reader] = {
  "gin binding": text("train/a.B.c = {'inputs': [1, %X]}", reading.from_text),
  "gin file": file(
    "x.gin",
    _GIN,
    lambda path: resolution.resolve(
      resolution.Bindings([str(path)], paths=[str(path.parent)]), "train"
    ),
  ),
  "record of a run": inside("record.json", RECORD, records.read, writes=True),
  "configuration of a run": inside(
    "configuration.json", _CONFIGURATION, identity.read
  ),
  "metrics": file(
    "metrics.jsonl",
    lines({"step": 1, "a/b": 0.5}, {"step": 2}),
    lambda path: metric_log.keep(path, lambda line: line["step"] < 3),
    writes=True,
  ),
  "digests": inside(
    "digests.json", json.dumps({"sha256": {"a": "0" * 64}}), digests.damage
  ),
  "T5X's tree": made(_v3, "*/checkpoint", _read_model, called=_NAME),
  "T5X's zarr index": made(_v3, "*/*/.zarray", _read_model, called=_NAME),
  "T5X's zarr chunk": made(_v3, "*/*/0.0", _read_model, called=_NAME),
  "Orbax's tree": made(
    _unsigned, f"{_STATE}/_METADATA", _read_model, called=_NAME
  ),
  "Orbax's manifest": made(
    _unsigned, f"{_STATE}/man*", _read_model, called=_NAME
  ),
  "Orbax's arrays": made(
    _unsigned, f"{_STATE}/**/d/*", _read_model, called=_NAME
  ),
  "Orbax's metadata": made(
    _unsigned, "*/_CHECKPOINT_METADATA", _read_model, called=_NAME
  ),
  "checkpoint with digests": made(_base, "*/**/d/*", _read_model, called=_NAME),
  "facts of a run": file(
    "checkpoint_1/run/metadata",
    json.dumps(_FACTS),
    lambda path: orbax.read_run_info(str(path.parents[1])),
  ),
  "predictions in part": made(_partial, "*/*", _read_partial, writes=True),
  "lock": inside("run.lock", LOCK_ELSEWHERE, run_lock.find_holder),
  "holder of a lock": file(
    "run.lock.json",
    json.dumps({"host": "a", "pid": 5, "since": "now"}),
    lambda path: run_lock._name_holder(str(path.with_suffix(""))),
  ),
  "lock in a bucket": file(
    "run.lock",
    json.dumps({"machine": "a", "pid": 5, "token": "b"}),
    lambda path: run_lock._read_lease(str(path), path.read_bytes()),
  ),
}
