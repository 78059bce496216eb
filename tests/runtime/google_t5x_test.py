"""Tests that gin files run on Google's T5X and `runtime/` keeps its names.

They use the signatures of T5X at cc342d4 and do not run T5X.
"""

import inspect
import json
import os
import pkgutil
import re
import types

from google_t5x import stand_in
import jax
import numpy as np
import pytest
import started
import tiny

from prompt_tuning import prompt_files
from prompt_tuning.data import metrics as metrics_lib
from prompt_tuning.training import base_model
from prompt_tuning.training import google_t5x as adapter
from t5x import checkpoints, metrics
from t5x.files import digests

# Parameters that T5X lacks. Gin cannot bind the parameters of methods.
OWN_PARAMETERS = {
  "eval.InferenceEvaluator.evaluate": {"after_batch"},
  "trainer.Trainer.eval": {"after_batch"},
  "models.EncoderDecoderModel": {"teacher", "distillation", "ends_inputs"},
  # A program that calls these, or the command line, passes them.
  "train.train": {"on_event", "should_stop", "configuration"},
  "eval.evaluate": {"on_event", "should_stop", "configuration"},
  "utils.DatasetConfig": {"max_unknown"},
  "utils.RestoreCheckpointConfig": {"checkpoint"},
  # T5X's shards are blocks of rows; a host's rows need not be a block.
  "utils.get_dataset": {"rows"},
  "infer.infer": {"on_event", "should_stop", "configuration"},
}
SHIPPED = sorted(stand_in.ROOT.glob("checkpoints/ladder_*/*/checkpoint_*"))
NOT_CONSTRUCTED = (["enum.Enum"], ["typing_extensions.Protocol"])


def test_every_gin_file_parses_and_runs_on_googles_t5x(tmp_path):
  """An unknown parameter, or a missing one that T5X requires, would raise."""
  stand_in.write_package(tmp_path)
  (tmp_path / "checkpoint_1100000").mkdir()
  (tmp_path / "checkpoint_1100000" / "checkpoint").touch()
  vocabulary = tiny.train_sentencepiece(tmp_path / "x.model")
  start = tmp_path / "start.safetensors"
  prompt_files.save_prompt(start, np.ones((2, 512), np.float32))
  bindings = [
    f"VOCABULARY_FILE = '{vocabulary}'",
    f"MODEL_DIR = '{tmp_path}'",
    "EVAL_OUTPUT_DIR = 'eval'",
    "INFER_OUTPUT_DIR = 'infer'",
    "INITIAL_CHECKPOINT_PATH = 'checkpoint_1100000'",
    "CLASS_LABELS = ['boat', 'harbour']",
    "MIXTURE_OR_TASK_NAME = 'task'",
    "TASK_FEATURE_LENGTHS = {'inputs': 512, 'targets': 8}",
    "TRAIN_STEPS = 1130000",
    f"PROMPT_FILE = '{start}'",
    "TASK_PREFIXES = ['boats: ']",
  ]
  done = started.python(
    *(stand_in.__file__, tmp_path, json.dumps(bindings)),
    "gin/models/t5_1_1_small.gin",
    "gin/methods/prompt_tuning.gin",
    "gin/prompts/class_labels.gin",
    cwd=tmp_path,
    env={**os.environ, "PYTHONPATH": "", "TF_CPP_MIN_LOG_LEVEL": "3"},
  )
  lines = done.stdout.splitlines()
  assert [line.split()[0] for line in lines] == ["infer", "evaluate", "train"]
  assert all({"model", "partitioner"} <= set(line.split()) for line in lines)
  prompt, metadata = prompt_files.load_prompt(tmp_path / "prompt.safetensors")
  np.testing.assert_array_equal(prompt, np.ones((2, 4)))
  assert metadata is not None
  assert metadata.base_fingerprint == prompt_files.UNKNOWN
  assert (metadata.step, metadata.score) == (7, 50.0)


def test_reads_the_embedding_of_either_format(tmp_path, monkeypatch):
  """T5X's reader, `load_t5x_checkpoint`, is used for its format 3 alone."""
  embedding = np.arange(6, dtype=np.float16).reshape(3, 2)
  checkpoints.save_base_checkpoint(
    str(tmp_path), 7, {"token_embedder": {"embedding": embedding}}, {}
  )
  v3 = tmp_path / "v3" / "checkpoint_7"
  v3.mkdir(parents=True)
  (v3 / "checkpoint").touch()

  def load(path, lazy_parameters):
    assert (path, lazy_parameters) == (str(v3), True)
    lazy = types.SimpleNamespace(get=lambda: embedding)
    return {"target": {"token_embedder": {"embedding": lazy}}}

  monkeypatch.delattr(checkpoints, "open_checkpoint")
  monkeypatch.setattr(checkpoints, "load_t5x_checkpoint", load, raising=False)
  monkeypatch.chdir(tmp_path)
  for path in ("checkpoint_7", ".", str(v3)):
    read = base_model.token_embedding(path)
    assert read.dtype == np.float32
    np.testing.assert_array_equal(read, embedding)


def test_paths_are_absolute_and_name_a_checkpoint(tmp_path, monkeypatch):
  # With this repository's runtime, paths stay as they are.
  assert adapter.folder("run") == adapter.checkpoint("run") == "run"
  monkeypatch.delattr(checkpoints, "open_checkpoint")
  monkeypatch.chdir(tmp_path)
  for name in ("checkpoint_9", "checkpoint_10", "checkpoint_11.damaged"):
    (tmp_path / "run" / name).mkdir(parents=True)
  assert adapter.folder("run") == str(tmp_path / "run")
  assert adapter.checkpoint("run") == str(tmp_path / "run" / "checkpoint_10")
  assert adapter.checkpoint("a/checkpoint_9") == str(
    tmp_path / "a/checkpoint_9"
  )
  bucket = "gs://bucket/checkpoint_1100000"
  assert adapter.checkpoint(bucket) == adapter.folder(bucket) == bucket
  assert adapter.checkpoint(None) is None
  with pytest.raises(ValueError, match="No checkpoint at nowhere: expected a"):
    adapter.checkpoint("nowhere")


def test_initialising_takes_tokens_that_are_floats():
  """T5X's evaluation and inference initialise with floats for tokens."""
  shapes = tiny.input_shapes()
  variables = jax.eval_shape(
    lambda rng: tiny.make_model().get_initial_variables(
      rng, shapes, dict.fromkeys(shapes, np.float32)
    ),
    jax.random.key(0),
  )
  assert variables["params"]["token_embedder"]["embedding"].ndim == 2


def test_gin_files_and_shipped_models_are_named_as_it_takes_them():
  """Gin files name the folder of a checkpoint, not its parent."""
  stages = {(x.parents[1].name, x.parent.name) for x in SHIPPED}
  assert stages >= {
    (f"ladder_{size}", stage)
    for size in ("xxs", "xs", "s", "m")
    for stage in ("span_corruption", "lm_10", "lm_50", "lm_100")
  }
  files = stand_in.ROOT.glob("gin/models/*.gin")
  text = "".join(x.read_text() for x in files)
  named = re.findall(r'^INITIAL_CHECKPOINT_PATH = "(.*)"$', text, re.MULTILINE)
  assert len(named) >= 5
  named.remove("checkpoints/smollm2_135m")  # In Hugging Face's format.
  for path in named:
    assert re.fullmatch(r"checkpoints/.+/checkpoint_\d+", path)


@pytest.mark.parametrize("folder", SHIPPED, ids=str)
def test_shipped_models_are_what_was_written(folder):
  """Every file of a model has a digest, so that `t5x` sees any damage."""
  assert (folder / "state" / "_METADATA").is_file()
  assert digests.damage(folder) is None
  known = json.loads((folder / digests.NAME).read_text())["sha256"]
  files = (path for path in folder.rglob("*") if path.is_file())
  assert {str(x.relative_to(folder)) for x in files} == {*known, digests.NAME}


def _methods(module: str, symbol: dict) -> dict[str, list[str]]:
  methods = {}
  for base in symbol["bases"]:
    if parent := stand_in.SIGNATURES.get(f"{module}.{base}"):
      methods |= _methods(module, parent)
  return methods | symbol.get("methods", {})


def _shared():
  """Yields a name, the runtime's function or class, and Google's parameters."""
  for path, google in stand_in.SIGNATURES.items():
    module, name = path.split(".")
    try:
      ours = pkgutil.resolve_name(f"t5x.{module}:{name}")
    except (ImportError, AttributeError):
      continue
    if google.get("bases") not in NOT_CONSTRUCTED:
      yield path, ours, google["parameters"]
    if inspect.isclass(ours):
      fields = getattr(ours, "__dataclass_fields__", {})
      for name, parameters in _methods(module, google).items():
        method = None if name in fields else vars(ours).get(name)
        if inspect.isfunction(method):
          yield f"{path}.{name}", method, parameters


def test_runtime_takes_a_subset_of_googles_parameters():
  found = list(_shared())
  assert len(found) > 45
  for path, ours, parameters in found:
    known = {name.rstrip("=") for name in parameters} | {"self"}
    known |= OWN_PARAMETERS.get(path, set())
    taken = inspect.signature(ours).parameters.values()
    names = {x.name for x in taken if x.kind is not x.VAR_KEYWORD}
    assert names <= known, path


@pytest.mark.parametrize("pattern", [".*", ".*/(?!invalid).*", "b/f1", "none"])
def test_prompts_and_checkpoints_are_chosen_by_one_score(pattern):
  evaluation = {"a": {"em": 50.0, "invalid": 1.0}, "b": {"em": 1.0, "f1": 4.0}}
  score = metrics_lib.score(evaluation, pattern)
  assert score == metrics.monitored(evaluation, pattern)
