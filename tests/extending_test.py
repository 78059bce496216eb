"""Tests that the files in docs/extending.md work as the page says."""

import importlib
import re
import shutil

import documented
from flax import traverse_util
import gin
import jax
import numpy as np
import pytest
import seqio
import tiny
import tiny_gin

from prompt_tuning.data import vocabulary
from prompt_tuning.experiments import sheets
from prompt_tuning.methods import trainable
from t5x import models

PAGE = documented.ROOT / "docs" / "extending.md"
# The name of a file, then a block with the file's content.
_FILE = re.compile(r"^`([\w/.]+)`[^\n]*:\n\n```\w+\n(.*?)^```", re.M | re.S)


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
  """The working directory, with the page's files."""
  folder = tmp_path_factory.mktemp("extending")
  for name, content in _FILE.findall(PAGE.read_text()):
    path = folder / name
    path.parent.mkdir(exist_ok=True)
    path.write_text(content)
  for split in ("train", "validation"):
    text = "a fine film\tgood\nno plot\tbad\n"
    (folder / "mine" / f"{split}.tsv").write_text(text)
  shutil.copytree(documented.ROOT / "configs/parts", folder / "configs/parts")
  with pytest.MonkeyPatch.context() as patch:
    patch.chdir(folder)
    patch.syspath_prepend(str(folder))
    yield folder


def _added(*gin_files):
  """Returns the parameters of a tiny T5 that train with these files."""
  tiny_gin.configure_files(
    "train",
    list(gin_files),
    [],
    MODEL_DIR="run",
    INITIAL_CHECKPOINT_PATH="base",
    TASK_FEATURE_LENGTHS=None,
  )
  model = gin.get_configurable(models.EncoderDecoderModel)()
  matches = gin.get_configurable(trainable.matches_any)()

  init = jax.jit(lambda r: model.get_initial_variables(r, tiny.input_shapes()))
  params = init(jax.random.key(0))["params"]
  flat = traverse_util.flatten_dict(params, sep="/")
  return {k: v for k, v in flat.items() if matches(k, v)}


def test_task(folder, monkeypatch):
  monkeypatch.setattr(
    vocabulary.MODEL_VOCABULARY, "in_use", seqio.ByteVocabulary()
  )
  module = importlib.import_module("mine.reviews")
  task = seqio.get_mixture_or_task("reviews")
  try:
    examples = list(task.get_dataset(None, "validation", shuffle=False))
  finally:
    seqio.TaskRegistry.remove("reviews")
  texts = [x["targets_pretokenized"].numpy().decode() for x in examples]
  assert sorted(texts) == sorted(module.LABELS)
  assert examples[0]["inputs_pretokenized"] == b"review: a fine film"
  assert task.postprocess_fn("good", example={}, is_target=False) == 1
  assert [metric([1], [1]) for metric in task.metric_fns] == [
    {"accuracy": 100},
    {"invalid": 0},
  ]


def test_commands(folder):
  (command,) = (
    words for words in documented.commands(PAGE) if "t5x.train" in words
  )
  tiny_gin.parse_command(command)
  assert gin.query_parameter("%RANKED_LABELS") == ["bad", "good"]


def test_method(folder):
  added = _added(str(folder / "mine/bias.gin"))
  assert "encoder/layers_0/attention/query/delta/bias" in added
  # Three attentions have four kernels each.
  assert len(added) == 12


def test_initialiser(folder, monkeypatch):
  table = np.full((384, tiny.WIDTH), 100.0, np.float32)
  monkeypatch.setattr(
    "prompt_tuning.inference.base_models.embedding_of", lambda _: table
  )
  monkeypatch.setattr("t5x.checkpoints.open_checkpoint", lambda path: None)
  added = _added("gin/methods/prompt_tuning.gin", str(folder / "mine/mean.gin"))
  (prompt,) = added.values()
  assert prompt.shape == (100, tiny.WIDTH)
  np.testing.assert_allclose(prompt.mean(), 100, atol=0.5)


def test_sheet(folder):
  sheet = sheets.load("reviews", folder / "configs")
  cells = sheet.cells()
  assert len(cells) == 9
  for cell in cells[::3]:
    tiny_gin.parse_command(cell.command)
    assert gin.query_parameter("%TRAIN_STEPS_RELATIVE") == 200
