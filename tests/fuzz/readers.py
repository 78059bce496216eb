"""Every reader of bytes from outside, with a small good file for each."""

from collections.abc import Callable
import dataclasses
import io
import json
import pathlib
import sqlite3
import tempfile
from typing import Any
import zipfile

from flax import traverse_util
import made_up
import numpy as np
import pydantic
import safetensors.numpy
import seqio
import t5x_folders
import tensorflow as tf

from prompt_tuning import prompt_files
from prompt_tuning.data import row_files, task_cache, task_rows
from prompt_tuning.data import vocabulary as vocabulary_lib
from prompt_tuning.data.release import rows as release_rows
from prompt_tuning.data.release import submission, tfds_data
from prompt_tuning.experiments import (
  claims,
  parameters,
  plan_table,
  sheets,
  sweeps,
)
from prompt_tuning.experiments import records as stored_records
from prompt_tuning.interop import (
  hugging_face,
  onnx_t5,
  peft_adapters,
  safetensors_files,
  sentencepiece_model,
  t5_names,
)
from prompt_tuning.models.t5.config import T5Config
from prompt_tuning.serving import prompt_store, schemas, tenants
from prompt_tuning.tuning_jobs import job_store, jobs, on_cluster
from t5x import checkpoints
from t5x.configuration import identity, reading, resolution
from t5x.files import digests, run_lock, safe_files
from t5x.formats import base_checkpoints, orbax, stored_arrays
from t5x.input import damage
from t5x.input.datasets import DatasetConfig
from t5x.runs import metric_log, record_schema, records

_ROOT = pathlib.Path(__file__).parents[2]
_ARRAYS = {"a/kernel": np.ones((4, 6), np.float32), "b": np.ones(3, "f4")}


@dataclasses.dataclass(frozen=True)
class Reader:
  """A reader of a file.

  Attributes:
    make: Writes good files into an empty folder; returns the name of the file
      to mutate, relative to the folder.
    read: Reads the file, given its path.
    called: The name that errors have: by default the file's, "" if the caller
      adds it.
    errors: Errors that the caller of this reader treats, beside ValueError and
      OSError.
    writes: Whether reading changes the folder.
  """

  make: Callable[[pathlib.Path], str]
  read: Callable[[pathlib.Path], Any]
  called: str | None = None
  errors: tuple[type[Exception], ...] = ()
  writes: bool = False


def _lines(*rows: Any) -> str:
  return "".join(f"{json.dumps(row)}\n" for row in rows)


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
_RECORD = record_schema.dump(
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
_CB_ROW = {"premise": "Ann left.", "hypothesis": "a", "label": "neutral"}
_LOCK = (
  "filelock/2\npid=5\nhost=elsewhere\nmode=lease\ntoken=ab\nduration=1.0\n"
)
_METADATA = prompt_files.PromptMetadata("52cb", "eed7", task="rte", score=50.5)
_PROMPT = np.linspace(-1, 1, 24, dtype=np.float32).reshape(3, 8)
_TOKENIZER = {
  "added_tokens": [{"id": 0, "content": "<pad>", "special": True}],
  "normalizer": {
    "normalizers": [
      {"type": "Precompiled", "precompiled_charsmap": ""},
      {"type": "Replace"},
    ]
  },
  "pre_tokenizer": {"type": "Metaspace", "prepend_scheme": "always"},
  "model": {
    "type": "Unigram",
    "unk_id": 2,
    "vocab": [["<pad>", 0.0], ["</s>", 0.0], ["<unk>", 0.0], ["▁a", -1.5]],
  },
}


def _zip(members: dict[str, str | bytes]) -> bytes:
  buffer = io.BytesIO()
  with zipfile.ZipFile(buffer, "w", zipfile.ZIP_DEFLATED) as archive:
    for name, content in members.items():
      archive.writestr(name, content)
  return buffer.getvalue()


def _read_rows(path: pathlib.Path) -> None:
  for row in row_files.read(str(path)):
    for column in row.cells:
      row.text(column)


def _v3(folder: pathlib.Path) -> None:
  t5x_folders.write_v3(folder, 7, _ARRAYS)


def _base(folder: pathlib.Path) -> None:
  tree = traverse_util.unflatten_dict(_ARRAYS, sep="/")
  checkpoints.save_base_checkpoint(str(folder), 7, tree, {"name": "tiny"})


def _unsigned(folder: pathlib.Path) -> None:
  """Without digests, as other software writes them: all is parsed."""
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


def _hugging_face(folder: pathlib.Path) -> None:
  config = T5Config(16, 4, 2, 1, 1, head_dim=2, mlp_dim=4)
  arrays = {
    name: stored_arrays.in_memory(np.ones(shape, np.float32))
    for name, shape in t5_names.shapes(config).items()
  }
  hugging_face.write_folder(folder / "hf", arrays)
  names = {t5_names.hugging_face_name(name) for name in arrays}
  text = json.dumps(
    {"weight_map": dict.fromkeys(names, safetensors_files.WEIGHTS)}
  )
  (folder / "hf" / safetensors_files.INDEX).write_text(text)


def _read_hugging_face(path: pathlib.Path) -> None:
  for array in hugging_face.open_folder(path.parent).arrays.values():
    stored_arrays.read(array)


def _onnx(folder: pathlib.Path) -> None:
  import onnx

  helper, numpy_helper = onnx.helper, onnx.numpy_helper
  tensors = {
    "w_quantized": np.array([[-128, 127]], np.int8),
    "w_scale": np.array(0.5, np.float32),
    "w_zero_point": np.array(3, np.int8),
    "n.weight": np.array([2, 3], np.float32),
  }
  graph = helper.make_graph(
    [
      helper.make_node("Gather", ["w_quantized", "i"], ["x"], "/enc/q/Gather"),
      helper.make_node("Mul", ["n.weight", "x"], ["y"], "/enc/norm/Mul"),
    ],
    "encoder",
    [],
    [],
    [numpy_helper.from_array(x, name) for name, x in tensors.items()],
  )
  onnx.save(helper.make_model(graph), folder / "encoder.onnx")


def _sentencepiece(folder: pathlib.Path) -> None:
  path = folder / "tokenizer.json"
  path.write_text(json.dumps(_TOKENIZER))
  model = sentencepiece_model.sentencepiece_from_tokenizer_json(path)
  (folder / "spiece.model").write_bytes(model)


def _read_sentencepiece(path: pathlib.Path) -> None:
  seqio.vocabularies._load_model_internal.cache_clear()
  vocabulary = seqio.SentencePieceVocabulary(str(path), extra_ids=2)
  vocabulary_lib.checked(vocabulary).encode("a b")


def _examples(folder: pathlib.Path) -> None:
  with tf.io.TFRecordWriter(str(folder / "x.tfrecord")) as writer:
    for i in range(3):
      example = seqio.dict_to_tfexample({"inputs": f"text {i}"})
      writer.write(example.SerializeToString())


def _read_examples(path: pathlib.Path) -> None:
  source = seqio.TFExampleDataSource(
    {"train": str(path)}, {"inputs": tf.io.FixedLenFeature([], tf.string)}
  )
  task = seqio.Task("fuzzed", source, {})
  cfg = DatasetConfig(task, None, "train", 1, False, None)
  with damage.named([cfg]):
    list(source.get_dataset("train", False).as_numpy_iterator())


def _tfds(folder: pathlib.Path) -> None:
  rows = [{**_CB_ROW, "idx": i} for i in range(56)]
  release = folder / "release" / "CB"
  release.mkdir(parents=True)
  (release / "val.jsonl").write_text(_lines(*rows))
  report = tfds_data.convert(folder / "release", folder / "data")
  assert not report.failed, report.failed


def _read_tfds(path: pathlib.Path) -> None:
  data = next(x for x in path.parents if x.name == "data")
  tfds_data._splits("super_glue/cb:1.0.2", data)


def _jobs(folder: pathlib.Path) -> None:
  store = job_store.JobStore(folder, "base", "52cb")
  line = json.dumps({"prompt": "a", "completion": "b"}).encode()
  file = store.add_file("x.jsonl", line)
  job = store.add_job(file.id, None, "mine", jobs.Settings())
  store.add_event(job, "notice", "text", {"step": 1})


def _read_jobs(path: pathlib.Path) -> None:
  store = job_store.JobStore(path.parent, "base", "52cb")
  for job in store.jobs():
    store.events(job.id)
  store.files()


def _partial(folder: pathlib.Path) -> None:
  file = safe_files.PartialFile(str(folder / "whole"))
  file.write([f"[{i}, {i}]\n" for i in range(20)])


def _read_partial(path: pathlib.Path) -> None:
  # It is whole, or written again: never are lines counted that are not there.
  lines = safe_files.PartialFile(str(path.parents[1] / "whole")).num_lines
  assert lines in (0, 20)
  assert not lines or path.read_bytes().count(b"\n") == lines


def _adapter(folder: pathlib.Path) -> None:
  peft_adapters.save_adapter(folder / "adapter", _PROMPT, _METADATA, "base")


def _read_adapter(path: pathlib.Path) -> None:
  peft_adapters.load_adapter(path.parent)


def _extract(path: pathlib.Path) -> None:
  with tempfile.TemporaryDirectory() as scratch:
    folder = pathlib.Path(scratch, "out")
    tfds_data._extract(path, {"train.jsonl"}, folder)


def _made(
  write: Callable[[pathlib.Path], Any], pattern: str, read: Any, **more: Any
) -> Reader:
  """Returns a reader of the largest file of a folder that matches."""

  def make(folder: pathlib.Path) -> str:
    write(folder)
    found = max(folder.glob(pattern), key=lambda path: path.stat().st_size)
    return str(found.relative_to(folder))

  return Reader(make, read, **more)


def _file(name: str, content: str | bytes, read: Any, **more: Any) -> Reader:
  """Returns a reader of a single file, given its path."""

  def make(folder: pathlib.Path) -> str:
    data = content.encode() if isinstance(content, str) else content
    (folder / name).parent.mkdir(parents=True, exist_ok=True)
    (folder / name).write_bytes(data)
    return name

  return Reader(make, read, **more)


def _inside(name: str, content: str, read: Any, **more: Any) -> Reader:
  """Returns a reader of a file, given its folder."""
  return _file(name, content, lambda path: read(str(path.parent)), **more)


def _text(content: str, read: Callable[[str], Any]) -> Reader:
  """Returns a reader of text that comes from no file."""
  return _file(
    "text",
    content,
    lambda path: read(path.read_bytes().decode("latin-1")),
    called="",
  )


def _body(kind: type[pydantic.BaseModel], **fields: Any) -> Reader:
  """Returns a reader of a request's body; the server names the field."""
  return _file(
    "body.json",
    json.dumps(fields),
    lambda path: kind.model_validate_json(path.read_bytes()),
    called="",
    errors=(pydantic.ValidationError,),
  )


def _upload(content: bytes) -> Reader:
  """Returns a reader of an upload; the server names the field."""

  def read(path: pathlib.Path) -> None:
    with tempfile.TemporaryDirectory() as scratch:
      prompt_store._parse(path.read_bytes(), pathlib.Path(scratch), "")

  return _file("upload", content, read, called="")


_TENSORS = prompt_files.content(_PROMPT, _METADATA, ".safetensors")
_NUMPY = prompt_files.content(_PROMPT, None, ".npy")
_ZIPPED = _zip(
  {
    peft_adapters.CONFIG: json.dumps(
      {
        "peft_type": "PROMPT_TUNING",
        "task_type": "SEQ_2_SEQ_LM",
        "num_virtual_tokens": 3,
      }
    ),
    peft_adapters.WEIGHTS: safetensors.numpy.save(
      {"prompt_embeddings": _PROMPT}
    ),
  }
)
_NAME = "checkpoint_7"
_STATE = f"{_NAME}/state"
_CLAIMS, _PARAMETERS = (
  (_ROOT / "configs" / f"{name}.toml").read_text()
  for name in ("claims", "parameters")
)


def _release(
  release: str, config: str, content: str, split: str = "validation"
) -> Reader:
  tasks = release_rows.RELEASES[release]
  task = next(task for task in tasks if task.config == config)
  task = dataclasses.replace(task, counts={split: 2})

  def check(path: pathlib.Path) -> None:
    with path.open("rb") as lines:
      release_rows.check_lines(task, split, lines, str(path))

  return _file(task.files[split], content, check)


_SIMILARITIES = """index\tsentence1\tsentence2\tscore
0\tA cat sat.\t"A cat\t3.75
1\tA dog.\t\t0
"""
_ASKED = [
  {"id": x, "question": "Who?", "answers": [{"text": x, "answer_start": 0}]}
  for x in "ab"
]
_QUESTIONS = {"data": [{"paragraphs": [{"context": "ab", "qas": _ASKED}]}]}
_MRQA = {
  "context": "ab",
  "qas": [{"qid": x, "question": "Who?", "answers": [x]} for x in "ab"],
}
READERS: dict[str, Reader] = {
  "gin binding": _text("train/a.B.c = {'inputs': [1, %X]}", reading.from_text),
  "gin file": _file(
    "x.gin",
    _GIN,
    lambda path: resolution.resolve(
      resolution.Bindings([str(path)], paths=[str(path.parent)]), "train"
    ),
  ),
  "sweep's arguments": _text(
    "--gin.X=1,2\n--gin_file=a.gin\n--gin.Y=[1, 'a']\n--v=1",
    lambda text: sweeps.parse(text.split("\n")),
  ),
  "sheet": _inside(
    "x.toml",
    made_up.SHEET,
    lambda folder: sheets.load("x", pathlib.Path(folder)),
  ),
  "sheet of claims": _file(
    "x.toml", _CLAIMS, lambda path: sheets.parse(path, claims.Claims)
  ),
  "sheet of parameters": _file(
    "x.toml",
    _PARAMETERS,
    lambda path: sheets.parse(path, parameters.ParameterSheet),
  ),
  "stored record": _file("x.json", _RECORD, stored_records.read),
  "record of a run": _inside("record.json", _RECORD, records.read, writes=True),
  "configuration of a run": _inside(
    "configuration.json", _CONFIGURATION, identity.read
  ),
  "plans": _file(
    "x.json",
    json.dumps([{"target": "v3:4x4", "fits": True}]),
    plan_table.read,
  ),
  "metrics": _file(
    "metrics.jsonl",
    _lines({"step": 1, "a/b": 0.5}, {"step": 2}),
    lambda path: metric_log.keep(path, lambda line: line["step"] < 3),
    writes=True,
  ),
  "events of a cluster": _file(
    "events.jsonl",
    _lines({"kind": "train", "step": 1, "first_step": 0, "last_step": 2}),
    lambda path: on_cluster._forward_events(path.parent, lambda event: None),
    writes=True,
  ),
  "digests": _inside(
    "digests.json", json.dumps({"sha256": {"a": "0" * 64}}), digests.damage
  ),
  "T5X's tree": _made(_v3, "*/checkpoint", _read_model, called=_NAME),
  "T5X's zarr index": _made(_v3, "*/*/.zarray", _read_model, called=_NAME),
  "T5X's zarr chunk": _made(_v3, "*/*/0.0", _read_model, called=_NAME),
  "Orbax's tree": _made(
    _unsigned, f"{_STATE}/_METADATA", _read_model, called=_NAME
  ),
  "Orbax's manifest": _made(
    _unsigned, f"{_STATE}/man*", _read_model, called=_NAME
  ),
  "Orbax's arrays": _made(
    _unsigned, f"{_STATE}/**/d/*", _read_model, called=_NAME
  ),
  "Orbax's metadata": _made(
    _unsigned, "*/_CHECKPOINT_METADATA", _read_model, called=_NAME
  ),
  "checkpoint with digests": _made(
    _base, "*/**/d/*", _read_model, called=_NAME
  ),
  "facts of a run": _file(
    "checkpoint_1/run/metadata",
    json.dumps(_FACTS),
    lambda path: orbax.read_run_info(str(path.parents[1])),
  ),
  "prompt, safetensors": _file(
    "x.safetensors", _TENSORS, prompt_files.load_prompt
  ),
  "prompt, npy": _file("x.npy", _NUMPY, prompt_files.load_prompt),
  "adapter's configuration": _made(_adapter, "*/*.json", _read_adapter),
  "adapter's weights": _made(_adapter, "*/*.safetensors", _read_adapter),
  "Hugging Face's configuration": _made(
    _hugging_face,
    "*/config.json",
    lambda path: hugging_face.read_config(path.parent),
  ),
  "Hugging Face's weights": _made(
    _hugging_face, "*/*.safetensors", _read_hugging_face, called="/hf"
  ),
  "Hugging Face's index": _made(
    _hugging_face, "*/*.index.json", _read_hugging_face, called="/hf"
  ),
  "Hugging Face's tokenizer": _file(
    "tokenizer.json",
    json.dumps(_TOKENIZER),
    sentencepiece_model.sentencepiece_from_tokenizer_json,
  ),
  "SentencePiece": _made(_sentencepiece, "*.model", _read_sentencepiece),
  "ONNX": _made(_onnx, "*.onnx", onnx_t5._weights),
  "rows, CSV": _file("x.csv", 'text,label\n"a, ""b""",yes\nc,no\n', _read_rows),
  "rows, TSV": _file("x.tsv", "text\tlabel\na\tyes\nb\tno\n", _read_rows),
  "rows, JSONL": _file(
    "x.jsonl", _lines({"a": "a", "n": 1.5}, {"a": "b", "n": 2}), _read_rows
  ),
  "release, zip": _file(
    "CB.zip", _zip({"CB/train.jsonl": "{}" * 99}), _extract
  ),
  "release, rows": _release(
    "superglue", "cb", _lines({**_CB_ROW, "idx": 0}, {**_CB_ROW, "idx": 1})
  ),
  "release, table": _release("glue", "stsb", _SIMILARITIES),
  "release, questions": _release("squad", "quoref", json.dumps(_QUESTIONS)),
  "release, MRQA": _release("squad", "drop", _lines({}, _MRQA), "test"),
  "TFDS's description": _made(
    _tfds, "**/dataset_info.json", _read_tfds, called="1.0.2"
  ),
  "TFDS's features": _made(
    _tfds, "**/features.json", _read_tfds, called="1.0.2"
  ),
  "examples, TFRecord": _made(_examples, "*", _read_examples),
  "index of a task's cache": _file(
    "info.train.json",
    json.dumps({"vocabularies": {"inputs": "00"}}),
    task_cache.read_vocabularies,
  ),
  "submission": _file(
    "x.zip",
    _zip({"CB.jsonl": _lines({"idx": 0, "label": "neutral"})}),
    submission.check,
  ),
  "predictions": _file(
    "x.jsonl",
    _lines({"inputs": {"idx": 0}, "prediction": "neutral"}),
    lambda path: submission.rows(
      "super_glue_cb", task_rows.ROWS["super_glue_cb"], [path]
    ),
  ),
  "predictions in part": _made(_partial, "*/*", _read_partial, writes=True),
  "lock": _inside("run.lock", _LOCK, run_lock.find_holder),
  "holder of a lock": _file(
    "run.lock.json",
    json.dumps({"host": "a", "pid": 5, "since": "now"}),
    lambda path: run_lock._name_holder(str(path.with_suffix(""))),
  ),
  "lock in a bucket": _file(
    "run.lock",
    json.dumps({"machine": "a", "pid": 5, "token": "b"}),
    lambda path: run_lock._read_lease(str(path), path.read_bytes()),
  ),
  # The server answers that the store is damaged.
  "store of jobs": _made(
    _jobs,
    "jobs.sqlite",
    _read_jobs,
    called="",
    errors=(sqlite3.Error,),
    writes=True,
  ),
  "data set of a job": _file(
    "x.jsonl",
    _lines({"prompt": "a", "completion": "b"}),
    lambda path: list(jobs.parse_examples(path.read_bytes())),
    called="",
  ),
  "upload, safetensors": _upload(_TENSORS),
  "upload, npy": _upload(_NUMPY),
  "upload, zip": _upload(_ZIPPED),
  "completion": _body(schemas.Completion, model="a", prompt=["b"], stop=["c"]),
  "chat": _body(
    schemas.Chat, model="a", messages=[{"role": "user", "content": "b"}]
  ),
  "rank": _body(schemas.Rank, model="a", prompt=[1, 2], labels=["yes", "no"]),
  "job": _body(
    schemas.NewJob,
    model="a",
    training_file="b",
    hyperparameters={"n_epochs": 3, "learning_rate_multiplier": 0.5},
  ),
  "keys": _file("keys", "sk-1 a # one\nsk-2\n", tenants.read_keys),
}
