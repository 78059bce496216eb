"""Tests of prompts that move to another frozen model."""

import dataclasses

import numpy as np
import pytest
import seqio
import tiny
import tiny_decoder

import prompt_tuning as pt
from prompt_tuning import prompt_files
from prompt_tuning.commands import console
from prompt_tuning.inference.recycling import move
from prompt_tuning.inference.requests import TunedPrompt
from prompt_tuning.interop import checkpoint_conversion
from prompt_tuning.methods import recycling
from prompt_tuning.training import base_model

RNG = np.random.default_rng(0)
OLD, MAP, PROMPT = (RNG.normal(size=x) for x in ((90, 6), (6, 8), (5, 6)))


@pytest.mark.parametrize(
  ("method", "tolerance"),
  [("v2v-lin", 1e-5), ("lin-comb", 1e-5), ("v2v-nn", 1.5)],
)
def test_linear_map_is_recovered(method, tolerance):
  """Linear methods are exact, the network is close; all ignore skipped rows."""
  old = RNG.normal(size=(4010, 6))
  new = old @ MAP
  new[:10] = 0
  moved = recycling.recycle(PROMPT, old, new, method, 10, 4000)
  assert moved.dtype == np.float32
  np.testing.assert_allclose(moved, PROMPT @ MAP, atol=tolerance)


@pytest.mark.parametrize(
  ("settings", "message"),
  [
    ({"method": "v2v"}, "method of v2v-lin, lin-comb, v2v-nn, got 'v2v'"),
    ({"skip": 11, "tokens": 80}, "--skip=0 --tokens=90"),
    ({"skip": -5, "tokens": 50}, "to skip -5"),  # No row would be left.
  ],
)
def test_what_cannot_be_learned_is_refused(settings, message):
  with pytest.raises(ValueError, match=message):
    recycling.recycle(PROMPT, OLD, OLD @ MAP, **settings)


def test_moved_prompt_is_of_the_other_model(tmp_path):
  """A T5's prompt moves to a wider T5 and to a decoder."""
  words = seqio.ByteVocabulary()
  old, wider = (
    pt.load(tiny.save_base(tmp_path / str(width), emb_dim=width), words)
    for width in (16, 24)
  )
  decoder = pt.load(tiny_decoder.save(tmp_path / "decoder"), words)
  prompt = TunedPrompt(
    RNG.normal(size=(3, 16)).astype(np.float32),
    prompt_files.PromptMetadata(
      old.fingerprint, old.vocabulary_sha256, task="cb", step=9
    ),
  )
  rows = {"skip": 3, "tokens": 256}
  named = dataclasses.replace(wider._base, path="google/wider")
  hubs = pt.Model(named, wider.config, words)
  for new, stack in ((hubs, "encoder"), (decoder, "decoder")):
    moved = move(prompt, old, new, **rows)
    assert new.prompt_array(moved) is moved.array
    assert moved.metadata
    path = f"{stack}/prompt/prompt"
    assert (moved.metadata.parameter_path, moved.metadata.task) == (path, "cb")
    assert moved.metadata.base_model == new.checkpoint
  file = str(tmp_path / "prompt.safetensors")
  prompt.save(file)
  # gin/prompts/recycled.gin reads the prompt this way.
  array = base_model.recycled_prompt(
    file, old.checkpoint, wider.checkpoint, words, **rows
  )
  np.testing.assert_array_equal(array, move(prompt, old, wider, **rows).array)
  with pytest.raises(ValueError, match="belongs to another model"):
    move(prompt, wider, old, **rows)
  other = pt.load(wider.checkpoint, seqio.ByteVocabulary(extra_ids=3))
  with pytest.raises(ValueError, match="models of one vocabulary"):
    move(prompt, old, other, **rows)


def test_prompt_of_int8_weights_moves_as_that_of_floats(base, tmp_path):
  rounded, words = str(tmp_path / "int8"), seqio.ByteVocabulary()
  floats = checkpoint_conversion.open_model(base)
  checkpoint_conversion.convert(floats, "int8", rounded)
  prompt = TunedPrompt(RNG.normal(size=(3, 16)).astype(np.float32))
  models = (pt.load(x, words) for x in (rounded, base))
  moved = move(prompt, *models, skip=3, tokens=256)
  np.testing.assert_allclose(moved.array, prompt.array, atol=0.05)


def test_command(tmp_path, capsys):
  source, out = tmp_path / "in.npy", tmp_path / "out.safetensors"
  models = [f"checkpoints/ladder_{size}/lm_100" for size in ("s", "xs")]
  np.save(source, np.ones((2, pt.load(models[0]).config.emb_dim)))
  words = ["recycle", str(source), "--from", models[0], "--to", models[1]]
  words += [f"--output={out}", "--skip=0", "--tokens=366"]
  assert console.main(words) == 0
  width = TunedPrompt.load(out).array.shape[1]
  assert f"prompt of 2 x {width} for " in capsys.readouterr().out
  # A wrong suffix is refused before a model is read.
  words[3], words[6] = "no_model", f"--output={tmp_path / 'out.txt'}"
  assert console.main(words) == 1
  assert "ends in .safetensors or .npy" in capsys.readouterr().err
