"""Google's T5X: the gin files run on it, and `runtime/` keeps to its names.

Checked against the signatures of T5X at cc342d4, not by running T5X.
"""

import importlib
import inspect
import json
import os
import pkgutil
import subprocess
import sys

import google_t5x
import numpy as np
import pytest
import sentencepiece

from prompt_tuning import prompt_files
from prompt_tuning.data import metrics as metrics_lib
import t5x
from t5x import metrics

NOT_CONSTRUCTED = (["enum.Enum"], ["typing_extensions.Protocol"])


def test_every_gin_file_parses_and_runs_on_googles_t5x(tmp_path):
  """Parameters that are not there, or that T5X requires, raise on the way."""
  google_t5x.write_package(tmp_path)
  sentencepiece.SentencePieceTrainer.train(
    sentence_iterator=iter(["a boat left the harbour", "the boat came back"]),
    model_prefix=str(tmp_path / "vocabulary"),
    vocab_size=19,
    minloglevel=2,
  )
  process = subprocess.run(
    [
      sys.executable,
      str(google_t5x.__file__),
      tmp_path,
      json.dumps(
        [
          f"VOCABULARY_FILE = '{tmp_path / 'vocabulary.model'}'",
          f"MODEL_DIR = '{tmp_path}'",
          "EVAL_OUTPUT_DIR = 'eval'",
          "INFER_OUTPUT_DIR = 'infer'",
          "INITIAL_CHECKPOINT_PATH = 'checkpoint_1100000'",
          "CLASS_LABELS = ['True', 'False']",
          "MIXTURE_OR_TASK_NAME = 'task'",
          "TASK_FEATURE_LENGTHS = {'inputs': 512, 'targets': 8}",
          "TRAIN_STEPS = 1130000",
        ]
      ),
      "gin/models/t5_1_1_small.gin",
      "gin/methods/prompt_tuning.gin",
      "gin/prompts/class_labels.gin",
    ],
    capture_output=True,
    text=True,
    cwd=tmp_path,
    env={**os.environ, "PYTHONPATH": "", "TF_CPP_MIN_LOG_LEVEL": "3"},
  )
  assert process.returncode == 0, process.stderr
  lines = process.stdout.splitlines()
  assert [line.split()[0] for line in lines] == ["infer", "evaluate", "train"]
  assert all({"model", "partitioner"} <= set(line.split()) for line in lines)
  prompt, metadata = prompt_files.load_prompt(tmp_path / "prompt.safetensors")
  np.testing.assert_array_equal(prompt, np.ones((2, 4)))
  assert metadata is not None
  assert metadata.base_fingerprint == prompt_files.UNKNOWN
  assert (metadata.step, metadata.score) == (7, 50.0)


def test_reads_the_embedding_with_googles_t5x(monkeypatch):
  from prompt_tuning.training import base_model

  class Lazy:
    def get(self):
      return np.eye(2, dtype=np.float64)

  def load(path, lazy_parameters):
    assert (path, lazy_parameters) == ("checkpoint_7", True)
    return {"target": {"token_embedder": {"embedding": Lazy()}}}

  monkeypatch.delattr(base_model.checkpoints, "open_checkpoint")
  monkeypatch.setattr(
    base_model.checkpoints, "load_t5x_checkpoint", load, raising=False
  )
  embedding = base_model.token_embedding("checkpoint_7")
  assert embedding.dtype == np.float32
  np.testing.assert_array_equal(embedding, np.eye(2))


def _parameters(function) -> set[str]:
  return set(inspect.signature(function).parameters) - {"self"}


def _google_methods(module: str, symbol: dict) -> dict[str, list[str]]:
  methods = {}
  for base in symbol["bases"]:
    if parent := google_t5x.SIGNATURES.get(f"{module}.{base}"):
      methods |= _google_methods(module, parent)
  return methods | symbol.get("methods", {})


def _ours():
  for info in pkgutil.iter_modules(t5x.__path__):
    for name, value in vars(
      importlib.import_module(f"t5x.{info.name}")
    ).items():
      path = f"{info.name}.{name}"
      if path in google_t5x.SIGNATURES:
        yield path, value


def test_runtime_takes_a_subset_of_googles_parameters():
  found = 0
  for path, ours in _ours():
    google = google_t5x.SIGNATURES[path]
    if google.get("bases") not in NOT_CONSTRUCTED:
      names = {name.rstrip("=") for name in google["parameters"]}
      assert _parameters(ours) <= names, path
      found += 1
    if not inspect.isclass(ours):
      continue
    for name, parameters in _google_methods(path.split(".")[0], google).items():
      method = vars(ours).get(name)
      if inspect.isfunction(method):
        names = {name.rstrip("=") for name in parameters}
        assert _parameters(method) <= names, f"{path}.{name}"
        found += 1
  assert found > 50


@pytest.mark.parametrize("pattern", [".*", ".*/(?!invalid).*", "b/f1", "none"])
def test_prompts_and_checkpoints_are_chosen_by_one_score(pattern):
  evaluation = {"a": {"em": 50.0, "invalid": 1.0}, "b": {"em": 1.0, "f1": 4.0}}
  score = metrics_lib.score(evaluation, pattern)
  assert score == metrics.monitored(evaluation, pattern)
