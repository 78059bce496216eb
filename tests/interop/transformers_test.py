"""Tests of our models and prompts against transformers and PEFT."""

import copy
import dataclasses
import functools
import pathlib
from typing import Any

import conformance
import jax
import numpy as np
import pytest
import seqio

import prompt_tuning as pt
from prompt_tuning import prompt_files, prompts
from prompt_tuning.injections import Injections
from prompt_tuning.interop import (
  checkpoint_conversion,
  peft_adapters,
  prompt_conversion,
)
from prompt_tuning.models import networks
from t5x import checkpoints, decoding, losses
from t5x import models as t5x_models

torch = pytest.importorskip("torch")
transformers_models = pytest.importorskip("transformers_models")
transformers = pytest.importorskip("transformers")

pytestmark = [
  pytest.mark.interop,
  # PEFT asks transformers for an attribute by its old name.
  pytest.mark.filterwarnings(
    "ignore:`is_gradient_checkpointing`:FutureWarning"
  ),
]

STEPS = 6
# The first row is longer than 32, so that all of T5's buckets are used.
INPUTS = [[5, 9, 33, 2, 7, *range(60, 26, -1)], [21, 8, 60], [11]]
TARGETS = [[4, 50, 1], [7, 7, 9, 30, 2, 1], [62, 1]]
PROMPT = np.random.default_rng(0).normal(size=(5, 16)).astype(np.float32)
# They cover the others, except caps of logits and Llama's frequencies.
USUAL = ("gemma3", "t5gemma", "t5")


def _padded(rows: Any) -> np.ndarray:
  longest = max(map(len, rows))
  rows = [[*row, *[0] * (longest - len(row))] for row in rows]
  return np.array(rows, np.int32)


@pytest.fixture(
  scope="module",
  params=[
    pytest.param(x, marks=[pytest.mark.slow] * (x not in USUAL))
    for x in transformers_models.FAMILIES
  ],
)
def models(request, tmp_path_factory):
  """Their model, its checkpoint as we read it, and our model."""
  folder = tmp_path_factory.mktemp("model")
  theirs = transformers_models.make(request.param, folder)
  assert len(list(folder.glob("*.safetensors"))) > 1
  words = seqio.PassThroughVocabulary(64, eos_id=1)
  base = checkpoints.open_checkpoint(str(folder))
  return theirs, base, pt.load(folder, words)


def _network(ours, **settings):
  """Makes our network with a prompt."""
  prompt = functools.partial(prompts.Prompt, length=len(PROMPT))
  config = dataclasses.replace(ours.config, **settings)
  return networks.make(config, Injections(prompt=prompt))


def _start(theirs):
  return 2 if "t5gemma" in theirs.config.model_type else 0


def _scale(theirs):
  """Returns the factor that multiplies their token embeddings."""
  return getattr(theirs.get_input_embeddings(), "scalar_embed_scale", 1.0)


def _embedded(theirs, prompt, tokens):
  """Embeds one example behind a prompt that is scaled like the tokens."""
  tokens = theirs.get_input_embeddings()(torch.tensor(tokens))
  return torch.cat([prompt * _scale(theirs), tokens])[None]


def _their_logits(theirs, prompt, inputs, targets):
  """Returns the logits of one example's targets, [S, V]."""
  if theirs.config.is_encoder_decoder:
    shifted = torch.tensor([[_start(theirs), *targets[:-1]]])
    rows = _embedded(theirs, prompt, inputs)
    return theirs(inputs_embeds=rows, decoder_input_ids=shifted).logits[0]
  rows = _embedded(theirs, prompt, [*inputs, *targets[:-1]])
  return theirs(inputs_embeds=rows).logits[0, -len(targets) :]


def _with_prompt(module, params, prompt):
  stack = "decoder" if len(module.config.stacks) == 1 else "encoder"
  return conformance.with_prompt(params, {"prompt": prompt}, stack)


def _loss_and_logits(module, params, prompt):
  targets = _padded(TARGETS)
  params = _with_prompt(module, params, prompt)
  logits = module.apply(
    {"params": params},
    *(_padded(INPUTS), np.pad(targets, ((0, 0), (1, 0)))[:, :-1], targets),
    enable_dropout=False,
  )
  loss, _, _ = losses.compute_weighted_cross_entropy(
    logits, targets, (targets > 0).astype(np.float32)
  )
  return loss, logits


def test_bytes_are_those_of_byt5():
  text = "とても良い映画, très bon"
  ids = seqio.ByteVocabulary().encode(text)
  assert transformers.ByT5Tokenizer()(text).input_ids == [*ids, 1]


def test_logits_and_the_gradient_of_a_prompt_are_equal(models):
  theirs, _, ours = models
  prompt = torch.tensor(PROMPT, requires_grad=True)
  expected = []
  for inputs, targets in zip(INPUTS, TARGETS, strict=True):
    logits = _their_logits(theirs, prompt, inputs, targets)
    loss = torch.nn.functional.cross_entropy(
      logits, torch.tensor(targets), reduction="sum"
    )
    loss.backward()
    expected.append(logits.detach().numpy())
  assert prompt.grad is not None
  norm = np.linalg.norm(prompt.grad)
  assert norm > 0.1
  compute = jax.grad(_loss_and_logits, argnums=2, has_aux=True)
  gradient, logits = jax.jit(compute, static_argnums=0)(
    _network(ours), ours.params, PROMPT
  )
  for found, row in zip(logits, expected, strict=True):
    assert np.abs(row).max() > 0.5
    np.testing.assert_allclose(found[: len(row)], row, atol=1e-4)
  assert np.linalg.norm(gradient - prompt.grad.numpy()) / norm < 1e-4
  # Scanned layers compute the same.
  scanned = _network(ours, scan_layers=True)
  params = _with_prompt(scanned, ours.params, PROMPT)
  params = conformance.stacked(scanned, params)
  _, again = jax.jit(_loss_and_logits, static_argnums=0)(
    scanned, params, PROMPT
  )
  np.testing.assert_allclose(again, logits, atol=1e-5)


@pytest.mark.parametrize(
  "num_beams", [1, pytest.param(4, marks=pytest.mark.slow)]
)
def test_generated_tokens_are_equal(models, num_beams):
  theirs, _, ours = models
  size = ours.config.vocab_size
  # T5X and transformers end beams by different rules, so no beam ends here.
  decode_fn, eos_id = {
    1: (decoding.temperature_sample, 1),
    4: (decoding.beam_search, size),
  }[num_beams]
  words, module = seqio.PassThroughVocabulary(size, eos_id), _network(ours)
  model = t5x_models.EncoderDecoderModel(
    module, words, words, None, decode_fn=decode_fn
  )
  predict = functools.partial(
    model.predict_batch_with_aux, num_decodes=num_beams
  )
  found, _ = jax.jit(predict)(
    _with_prompt(module, ours.params, PROMPT),
    {
      "encoder_input_tokens": _padded(INPUTS),
      "decoder_input_tokens": np.zeros((3, STEPS), np.int32),
    },
  )
  for tokens, row in zip(INPUTS, found, strict=True):
    expected = theirs.generate(
      inputs_embeds=_embedded(theirs, torch.tensor(PROMPT), tokens),
      max_new_tokens=STEPS,
      do_sample=False,
      num_beams=num_beams,
      eos_token_id=eos_id,
    )[0].tolist()[theirs.config.is_encoder_decoder :]
    assert row.tolist() == [*expected, *[0] * (STEPS - len(expected))]


def test_transformers_load_what_we_write(models, tmp_path):
  """The weights are bit-identical; a T5 is converted to T5X's format first."""
  theirs, base, _ = models
  out = tmp_path / "again"
  if theirs.config.model_type == "t5gemma2":
    with pytest.raises(ValueError, match="encoder of images"):
      checkpoint_conversion.convert(base, "hf", str(out))
    return
  if theirs.config.model_type in ("t5", "mt5"):
    checkpoint_conversion.convert(base, "t5x", str(tmp_path / "t5x"))
    base = checkpoints.open_checkpoint(str(tmp_path / "t5x"))
  elif source := base.metadata.get("folder"):  # Its index is not copied.
    (pathlib.Path(source) / "pytorch_model.bin.index.json").write_text("{}")
  checkpoint_conversion.convert(base, "hf", str(out))
  assert not [*out.glob("*.index.json")]
  again = type(theirs).from_pretrained(out)
  assert again.config.eos_token_id == 1
  expected, found = theirs.state_dict(), again.state_dict()
  assert found.keys() == expected.keys()
  for name, weight in expected.items():
    assert torch.equal(found[name], weight), name
  prompt = torch.tensor(PROMPT)
  expected, found = (
    _their_logits(x.eval(), prompt, INPUTS[0], TARGETS[0])
    for x in (theirs, again)
  )
  torch.testing.assert_close(found, expected)


def test_peft_takes_our_prompts_and_we_take_its_own(models, tmp_path):
  peft = pytest.importorskip("peft")
  theirs, base, _ = models
  # A short example, so that the prompt is within Mistral's window.
  inputs, targets = INPUTS[1], TARGETS[1]
  prompt = torch.tensor(PROMPT, requires_grad=True)
  expected = _their_logits(theirs, prompt, inputs, targets)
  header = prompt_files.PromptMetadata(base.fingerprint, prompt_files.UNKNOWN)
  folder = tmp_path / "ours"
  prompt_conversion.write_prompt(folder, PROMPT, header, base.found)
  adapter = peft.PeftModel.from_pretrained(copy.deepcopy(theirs), folder)
  weight = adapter.prompt_encoder["default"].embedding.weight
  weight.requires_grad_(True)
  rows = {"input_ids": [*inputs, *targets[:-1]]}
  is_decoder = not theirs.config.is_encoder_decoder
  if not is_decoder:
    rows = {
      "input_ids": inputs,
      "decoder_input_ids": [_start(theirs), *targets[:-1]],
    }
  ids = {name: torch.tensor([row]) for name, row in rows.items()}
  mask = torch.ones_like(ids["input_ids"])
  found = adapter(**ids, attention_mask=mask).logits[0, -len(targets) :]
  torch.testing.assert_close(found, expected, atol=1e-4, rtol=1e-4)
  (gradient,) = torch.autograd.grad(found.square().sum(), weight)
  (wanted,) = torch.autograd.grad(expected.square().sum(), prompt)
  wanted /= _scale(theirs)
  norm = torch.linalg.norm(wanted)
  assert norm > 0.1
  assert torch.linalg.norm(gradient - wanted) < 1e-4 * norm
  adapter.save_pretrained(tmp_path / "theirs", save_embedding_layers=False)
  array, metadata = prompt_conversion.read_prompt(tmp_path / "theirs")
  np.testing.assert_allclose(array, PROMPT, rtol=1e-6)
  assert metadata is not None
  assert metadata.parameter_path.startswith("decoder/") == is_decoder
  assert metadata.base_model == base.found


@pytest.mark.parametrize("is_safe", [True, False])
def test_reads_what_peft_saves_for_a_t5(is_safe, tmp_path):
  """PEFT saves twice the rows by default; the first half is the prompt."""
  peft = pytest.importorskip("peft")
  model = peft.get_peft_model(
    transformers_models.make("t5", tmp_path / "base"),
    peft.PromptTuningConfig(task_type="SEQ_2_SEQ_LM", num_virtual_tokens=5),
  )
  model.save_pretrained(
    tmp_path, safe_serialization=is_safe, save_embedding_layers=False
  )
  assert (tmp_path / "adapter_model.bin").exists() != is_safe
  array, metadata = peft_adapters.load_adapter(tmp_path)
  table = model.prompt_encoder["default"].embedding.weight.detach().numpy()
  assert table.shape == (10, 16)
  np.testing.assert_array_equal(array, table[:5])
  assert metadata is None
