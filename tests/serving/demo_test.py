"""Tests of the server's demo."""

import json
import pathlib
from unittest import mock

import numpy as np
import pytest

import prompt_tuning as pt
from prompt_tuning import prompt_files
from prompt_tuning.commands import console, serve
from prompt_tuning.data import vocabulary as vocabulary_lib
from prompt_tuning.serving import demo
from prompt_tuning.tuning_jobs import jobs


@pytest.fixture
def args(tmp_path, monkeypatch):
  monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
  monkeypatch.setenv("PROMPT_TUNING_LABELS", "8")
  return serve.complete(console.parse(["serve", "--demo", "--rows=2"]))


def test_the_demo_has_prompts_of_its_model(args, tmp_path):
  assert (args.rows, args.labels) == (2, [8])  # The demo keeps both settings.
  model = pt.load(args.checkpoint)
  folder = pathlib.Path(args.prompts)
  assert folder.is_relative_to(tmp_path)
  names = {path.stem for path in folder.iterdir()}
  assert names == {"ladder_boolq", "ladder_cb", "ladder_wsc"}
  for name in names:
    array, metadata = prompt_files.load_prompt(folder / f"{name}.safetensors")
    assert array.shape == (20, model.config.emb_dim)
    assert metadata.task == name
    prompt_files.check_compatible(
      metadata, model.fingerprint, vocabulary_lib.sha256(model.vocabulary)
    )
  examples = demo.examples(model, names)
  assert {example["model"] for example in examples} == names
  longest = max(len(model.vocabulary.encode(x["input"])) for x in examples)
  assert longest + 1 + 20 <= max(args.lengths)
  # These are the files of the task to tune on.
  train, validation = demo.data_sets(model, args.jobs)
  pairs = list(jobs.parse_examples(pathlib.Path(train).read_bytes()))
  assert len(pairs) == 1000
  assert {answer for _, answer in pairs} == {"True", "False"}
  lines = pathlib.Path(validation).read_text().splitlines()
  assert not {json.loads(line)["prompt"] for line in lines} & dict(pairs).keys()


def test_what_was_tuned_or_changed_stays(args):
  path = pathlib.Path(args.prompts, "ladder_cb.safetensors")
  prompt_files.save_prompt(path, np.ones((3, 192), np.float32))
  demo.defaults()
  assert len(prompt_files.load_prompt(path)[0]) == 3
  path.write_bytes(b"half")
  demo.defaults()
  assert path.read_bytes() == b"half"
  path.unlink()
  full = mock.patch("os.replace", side_effect=OSError("full"))
  with full, pytest.raises(OSError, match="full"):
    demo.defaults()
  assert not path.exists()  # A failed copy leaves no partial file.


def test_without_the_repository_it_says_so(tmp_path, monkeypatch):
  monkeypatch.setattr(pt, "gin_search_path", lambda: str(tmp_path))
  with pytest.raises(ValueError, match="start the demo in a checkout"):
    serve.complete(console.parse(["serve", "--demo"]))
