"""transformers and PEFT compute the same from our models and prompts."""

import dataclasses
import functools

import conformance
import jax
import numpy as np
import pytest
import seqio
import tiny

import prompt_tuning as pt
from prompt_tuning import prompts
from prompt_tuning.interop import checkpoint_conversion, peft_adapters
from prompt_tuning.models.t5 import network
from t5x import decoding, losses

peft = pytest.importorskip("peft")
torch = pytest.importorskip("torch")
transformers = pytest.importorskip("transformers")
transformers_t5 = pytest.importorskip("transformers_t5")

pytestmark = [
  pytest.mark.interop,
  # PEFT asks transformers for an attribute by its old name.
  pytest.mark.filterwarnings(
    "ignore:`is_gradient_checkpointing`:FutureWarning"
  ),
]

STEPS = 12


@pytest.fixture(
  scope="module",
  params=[  # The others are the same network.
    pytest.param(x, marks=[pytest.mark.slow] * (x != "t5"))
    for x in transformers_t5.CONFIGS
  ],
)
def hugging_face(request):
  return transformers_t5.make(family=request.param)


def test_bytes_are_those_of_byt5():
  text = "とても良い映画, très bon"
  ids = seqio.ByteVocabulary().encode(text)
  assert transformers.ByT5Tokenizer()(text).input_ids == [*ids, 1]


@pytest.fixture(scope="module")
def batch():
  """Three examples of different lengths, padded with 0."""
  rng = np.random.default_rng(1)
  inputs = rng.integers(2, 64, (3, 40))  # Longer than 32: all buckets count.
  targets = rng.integers(2, 64, (3, STEPS))
  for row, (length, target_length) in enumerate([(40, 12), (23, 2), (9, 4)]):
    inputs[row, length:] = targets[row, target_length:] = 0
  return inputs.astype(np.int32), targets.astype(np.int32)


@pytest.fixture(scope="module")
def folders(hugging_face, tmp_path_factory):
  """The model as transformers saves it, in shards, and our conversions."""
  folder = tmp_path_factory.mktemp("models")
  hugging_face.save_pretrained(folder / "hf", max_shard_size="10KB")
  for arguments in (("hf", "hf", "t5x", "t5x"), ("t5x", "t5x", "hf", "again")):
    source_format, source, target_format, target = arguments
    checkpoint_conversion.convert(
      checkpoint_conversion.open_model(str(folder / source), source_format),
      target_format,
      str(folder / target),
    )
  assert len(list((folder / "hf").glob("*.safetensors"))) > 3
  return folder


@pytest.fixture(scope="module")
def ours(folders):
  """The converted model."""
  words = seqio.PassThroughVocabulary(64, eos_id=1)
  return pt.load(folders / "t5x", words)


def _shifted(targets):
  return np.pad(targets, ((0, 0), (1, 0)))[:, :-1]


def _their_logits(model, batch):
  inputs, targets = batch
  return model(
    input_ids=torch.tensor(inputs, dtype=torch.long),
    attention_mask=torch.tensor(inputs > 0),
    decoder_input_ids=torch.tensor(_shifted(targets), dtype=torch.long),
  ).logits


def test_greedy_tokens_are_equal(hugging_face, ours, batch):
  model = tiny.make_model(
    with_prompt=False,
    # gin/decoding/greedy.gin
    decode_fn=functools.partial(decoding.temperature_sample, topk=1),
    **dataclasses.asdict(ours.config),
  )
  inputs, _ = batch
  tokens = jax.jit(model.predict_batch)(
    ours.params,
    {
      "encoder_input_tokens": inputs,
      "decoder_input_tokens": np.zeros((3, STEPS), np.int32),
    },
  )
  theirs = hugging_face.generate(
    input_ids=torch.tensor(inputs, dtype=torch.long),
    attention_mask=torch.tensor(inputs > 0),
    max_new_tokens=STEPS,
    do_sample=False,
  ).numpy()[:, 1:]
  theirs = np.pad(theirs, ((0, 0), (0, STEPS - theirs.shape[1])))
  assert len(np.unique(theirs)) > 3
  np.testing.assert_array_equal(tokens, theirs)


def test_transformers_load_what_we_write(hugging_face, folders, batch):
  """Bit for bit, with a head of its own."""
  again = transformers.T5ForConditionalGeneration.from_pretrained(
    folders / "again"
  )
  expected = hugging_face.state_dict()
  found = again.state_dict()
  assert found.keys() == expected.keys()
  for name, weight in expected.items():
    assert torch.equal(found[name], weight), name
  assert not torch.equal(found["lm_head.weight"], found["shared.weight"])
  logits = _their_logits(again.eval(), batch)
  assert torch.equal(logits, _their_logits(hugging_face, batch))


def test_peft_computes_our_logits_and_gradient_of_a_prompt(
  ours, folders, batch, tmp_path
):
  inputs, targets = batch
  prompt = np.random.default_rng(0).normal(size=(5, 16)).astype(np.float32)
  module = network.Transformer(
    ours.config,
    network.Injections(prompt=lambda name: prompts.Prompt(5, name=name)),
  )

  def loss_fn(prompt):
    logits = module.apply(
      {"params": conformance.with_prompt(ours.params, {"prompt": prompt})},
      *(inputs, _shifted(targets), targets),
      enable_dropout=False,
    )
    loss, _, _ = losses.compute_weighted_cross_entropy(
      logits, targets, (targets > 0).astype(np.float32)
    )
    return loss, logits

  gradient, logits = jax.jit(jax.grad(loss_fn, has_aux=True))(prompt)
  peft_adapters.save_adapter(tmp_path / "adapter", prompt)
  base = transformers.T5ForConditionalGeneration.from_pretrained(
    folders / "again"
  )
  adapter = peft.PeftModel.from_pretrained(base, tmp_path / "adapter").eval()
  weight = adapter.prompt_encoder["default"].embedding.weight
  weight.requires_grad_(True)
  theirs = _their_logits(adapter, batch)
  torch.nn.functional.cross_entropy(
    theirs.flatten(0, 1),
    torch.tensor(targets, dtype=torch.long).flatten(),
    ignore_index=0,
    reduction="sum",
  ).backward()
  expected = theirs.detach().numpy()
  assert np.abs(expected).max() > 1
  assert np.abs(logits - expected)[targets > 0].max() < 1e-4
  expected = weight.grad.numpy()
  norm = np.linalg.norm(expected)
  assert norm > 0.1
  assert gradient.shape == expected.shape
  assert np.linalg.norm(gradient - expected) / norm < 1e-4


def test_reads_what_peft_saves(hugging_face, tmp_path):
  """PEFT's default keeps twice the rows; the first half is the prompt."""
  with torch.random.fork_rng():
    model = peft.get_peft_model(
      transformers.T5ForConditionalGeneration(hugging_face.config),
      peft.PromptTuningConfig(task_type="SEQ_2_SEQ_LM", num_virtual_tokens=5),
    )
  model.save_pretrained(tmp_path, save_embedding_layers=False)
  array, metadata = peft_adapters.load_adapter(tmp_path)
  table = model.prompt_encoder["default"].embedding.weight.detach().numpy()
  assert table.shape == (10, 16)
  np.testing.assert_array_equal(array, table[:5])
  assert metadata is None
