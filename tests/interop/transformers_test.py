"""A T5 1.1 of transformers', converted and loaded, computes the same."""

import functools

from flax import traverse_util
import jax
import numpy as np
import pytest
import seqio
import tiny

from prompt_tuning.interop import checkpoint_conversion
from prompt_tuning.models.t5 import network
from t5x import checkpoints, decoding, models

torch = pytest.importorskip("torch")
transformers = pytest.importorskip("transformers")
transformers_t5 = pytest.importorskip("transformers_t5")

pytestmark = pytest.mark.interop

STEPS = 12


@pytest.fixture(scope="module")
def hugging_face():
  return transformers_t5.make()


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
  """The model as transformers saves it, in shards, and what we make of it."""
  folder = tmp_path_factory.mktemp("models")
  hugging_face.save_pretrained(folder / "hf", max_shard_size="10KB")
  for arguments in (("hf", "hf", "t5x", "t5x"), ("t5x", "t5x", "hf", "again")):
    source_format, source, target_format, target = arguments
    checkpoint_conversion.convert(
      checkpoint_conversion.open_model(source_format, str(folder / source)),
      target_format,
      str(folder / target),
    )
  assert len(list((folder / "hf").glob("*.safetensors"))) > 3
  return folder


@pytest.fixture(scope="module")
def ours(folders):
  """Our model, and the converted parameters as a run restores them."""
  vocabulary = seqio.PassThroughVocabulary(64, eos_id=1)
  model = models.EncoderDecoderModel(
    network.Transformer(
      transformers_t5.CONFIG,
      network.Injections(),
    ),
    vocabulary,
    vocabulary,
    tiny.prompt_optimizer(),
    # gin/decoding/greedy.gin
    decode_fn=functools.partial(decoding.temperature_sample, topk=1),
  )
  checkpoint = checkpoints.open_checkpoint(str(folders / "t5x"))
  host = jax.sharding.SingleDeviceSharding(jax.devices()[0])
  params = checkpoint.read(
    {
      name: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=host)
      for name, x in checkpoint.shapes.items()
    }
  )
  return model, traverse_util.unflatten_dict(params, sep="/")


def _logits(model, batch):
  inputs, targets = batch
  return (
    model(
      input_ids=torch.tensor(inputs, dtype=torch.long),
      attention_mask=torch.tensor(inputs > 0),
      decoder_input_ids=torch.tensor(_shifted(targets), dtype=torch.long),
    )
    .logits.detach()
    .numpy()
  )


def _shifted(targets):
  return np.pad(targets, ((0, 0), (1, 0)))[:, :-1]


def test_logits_are_equal(hugging_face, ours, batch):
  model, params = ours
  inputs, targets = batch
  logits = model.module.apply(
    {"params": params}, inputs, _shifted(targets), targets, enable_dropout=False
  )
  theirs = _logits(hugging_face, batch)
  counted = targets > 0
  assert np.abs(theirs).max() > 1
  difference = np.abs(np.asarray(logits) - theirs)[counted].max()
  assert difference < 1e-4, difference


def test_greedy_tokens_are_equal(hugging_face, ours, batch):
  model, params = ours
  inputs, _ = batch
  tokens = model.predict_batch(
    params,
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
  """Bit for bit, and the head stays its own."""
  again = transformers.T5ForConditionalGeneration.from_pretrained(
    folders / "again"
  )
  expected = hugging_face.state_dict()
  found = again.state_dict()
  assert found.keys() == expected.keys()
  for name, weight in expected.items():
    assert torch.equal(found[name], weight), name
  assert not torch.equal(found["lm_head.weight"], found["shared.weight"])
  np.testing.assert_array_equal(
    _logits(again.eval(), batch), _logits(hugging_face, batch)
  )
