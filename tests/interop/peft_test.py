"""PEFT runs our prompts: its logits and its prompt's gradient are ours."""

from flax import traverse_util
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from prompt_tuning import prompts
from prompt_tuning.interop import peft_adapters, t5_names
from prompt_tuning.models.t5 import network
from t5x import losses

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

PROMPT = "encoder/prompt/prompt"


@pytest.fixture(scope="module")
def hugging_face():
  return transformers_t5.make()


@pytest.fixture(scope="module")
def prompt():
  return np.random.default_rng(0).normal(size=(5, 16)).astype(np.float32)


@pytest.fixture(scope="module")
def batch():
  """Three examples of different lengths, padded with 0."""
  rng = np.random.default_rng(1)
  inputs = rng.integers(2, 64, (3, 40))  # Longer than 32: all buckets count.
  targets = rng.integers(2, 64, (3, 6))
  for row, (length, target_length) in enumerate([(40, 6), (23, 2), (9, 4)]):
    inputs[row, length:] = targets[row, target_length:] = 0
  return inputs.astype(np.int32), targets.astype(np.int32)


@pytest.fixture(scope="module")
def adapter(hugging_face, prompt, tmp_path_factory):
  """The prompt, exported and loaded by PEFT."""
  folder = tmp_path_factory.mktemp("adapter") / "prompt"
  peft_adapters.save_adapter(folder, prompt)
  return peft.PeftModel.from_pretrained(hugging_face, folder)


def _parameters(model):
  """The weights of a Hugging Face T5 under our names."""
  weights = model.state_dict()
  params = {}
  for name in t5_names.shapes(transformers_t5.CONFIG):
    array = weights[t5_names.hugging_face_name(name)].numpy()
    params[name] = jnp.asarray(
      array.T if t5_names.is_transposed(name) else array
    )
  return params


@pytest.fixture(scope="module")
def ours(hugging_face, prompt, batch):
  """Our logits, and the gradient of the summed loss to the prompt."""
  module = network.Transformer(
    transformers_t5.CONFIG,
    network.Injections(prompt=lambda name: prompts.Prompt(5, name=name)),
  )
  frozen = _parameters(hugging_face)
  inputs, targets = batch

  @jax.jit
  def run(prompt):
    def loss_fn(prompt):
      params = traverse_util.unflatten_dict({**frozen, PROMPT: prompt}, sep="/")
      logits = module.apply(
        {"params": params},
        inputs,
        _shifted(targets),
        targets,
        enable_dropout=False,
      )
      loss, _, _ = losses.compute_weighted_cross_entropy(
        logits, targets, (targets > 0).astype(np.float32)
      )
      return loss, logits

    return jax.grad(loss_fn, has_aux=True)(prompt)

  gradient, logits = run(prompt)
  return np.asarray(logits), np.asarray(gradient)


@pytest.fixture(scope="module")
def theirs(adapter, batch):
  """The same by PEFT."""
  inputs, targets = batch
  weight = adapter.prompt_encoder["default"].embedding.weight
  weight.requires_grad_(True)
  logits = adapter(
    input_ids=torch.tensor(inputs, dtype=torch.long),
    attention_mask=torch.tensor(inputs > 0),
    decoder_input_ids=torch.tensor(_shifted(targets), dtype=torch.long),
  ).logits
  torch.nn.functional.cross_entropy(
    logits.flatten(0, 1),
    torch.tensor(targets, dtype=torch.long).flatten(),
    ignore_index=0,
    reduction="sum",
  ).backward()
  return logits.detach().numpy(), weight.grad.numpy()


def _shifted(targets):
  return np.pad(targets, ((0, 0), (1, 0)))[:, :-1]


def test_logits_are_ours(ours, theirs, batch):
  counted = batch[1] > 0
  difference = np.abs(ours[0] - theirs[0])[counted].max()
  assert np.abs(ours[0]).max() > 1
  assert difference < 1e-4, difference


def test_gradient_of_the_prompt_is_ours(ours, theirs):
  assert ours[1].shape == theirs[1].shape
  norm = np.linalg.norm(theirs[1])
  difference = np.linalg.norm(ours[1] - theirs[1]) / norm
  assert norm > 0.1
  assert difference < 1e-4, difference


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
