"""Prompts on another frozen model."""

import numpy as np
import pytest
import seqio
import tiny
import tiny_decoder

import prompt_tuning as pt
from prompt_tuning import prompt_files
from prompt_tuning.commands import console
from prompt_tuning.inference import recycling
from prompt_tuning.inference.requests import TunedPrompt

RNG = np.random.default_rng(0)
OLD, MAP, PROMPT = (RNG.normal(size=x) for x in ((90, 6), (6, 8), (5, 6)))
ROWS = {"skip": 10, "tokens": 80}


@pytest.mark.parametrize("method", ["v2v-lin", "lin-comb"])
def test_linear_map_is_recovered_exactly(method):
  new = OLD @ MAP
  # What is skipped does not count.
  new[:10] = 0
  moved = recycling.recycle(PROMPT, OLD, new, method, **ROWS)
  assert moved.dtype == np.float32
  np.testing.assert_allclose(moved, PROMPT @ MAP, rtol=1e-5, atol=1e-5)


def test_network_learns_the_map_of_words():
  old = RNG.normal(size=(4000, 6))
  moved = recycling.recycle(old[:5], old, old @ MAP, "v2v-nn", 0, 4000)
  expected = old[:5] @ MAP
  assert np.abs(moved - expected).mean() < 0.2 * np.abs(expected).mean()


@pytest.mark.parametrize(
  ("settings", "message"),
  [
    ({"method": "v2v"}, "method of v2v-lin, lin-comb, v2v-nn, got 'v2v'"),
    ({"skip": 11, "tokens": 80}, "--skip=0 --tokens=90"),
  ],
)
def test_what_cannot_be_learned_is_refused(settings, message):
  with pytest.raises(ValueError, match=message):
    recycling.recycle(PROMPT, OLD, OLD @ MAP, **settings)


def test_moved_prompt_is_of_the_other_model(tmp_path):
  """From a T5 to a wider one, and to a decoder."""
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
  for new, stack in ((wider, "encoder"), (decoder, "decoder")):
    moved = recycling.move(prompt, old, new, **rows)
    assert new.prompt_array(moved) is moved.array
    assert moved.metadata == prompt_files.PromptMetadata(
      new.fingerprint,
      new.vocabulary_sha256,
      f"{stack}/prompt/prompt",
      task="cb",
      base_model=new.checkpoint,
    )
  with pytest.raises(ValueError, match="belongs to another model"):
    recycling.move(prompt, wider, old, **rows)
  other = pt.load(wider.checkpoint, seqio.ByteVocabulary(extra_ids=3))
  with pytest.raises(ValueError, match="models of one vocabulary"):
    recycling.move(prompt, old, other, **rows)


def test_command(tmp_path, capsys):
  base = pt.load("checkpoints/ladder_xs/lm_100")
  prompt = TunedPrompt(np.ones((2, base.config.emb_dim), np.float32))
  prompt.save(tmp_path / "in.safetensors")
  out = tmp_path / "out.safetensors"
  models = [f"--from={base.checkpoint}", "--to=checkpoints/ladder_s/lm_100"]
  words = ["recycle", str(tmp_path / "in.safetensors"), *models]
  words += [f"--output={out}", "--skip=0", "--tokens=366"]
  assert console.main(words) == 0
  shown = capsys.readouterr().out
  moved = TunedPrompt.load(out)
  assert f"prompt of 2 x {moved.array.shape[1]} for " in shown
