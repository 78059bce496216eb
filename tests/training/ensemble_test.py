"""Tests of the vote, and of the prompt that each row of a batch gets."""

import copy

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import tiny

from prompt_tuning import prompt_files
from prompt_tuning.injections import Injections
from prompt_tuning.methods import voting
from prompt_tuning.models.t5 import network
from prompt_tuning.training import ensemble

K = 3
SHAPE = (K, tiny.PROMPT_LENGTH, tiny.WIDTH)
# The prompts are strong enough to answer differently.
PROMPTS = 10 * np.random.default_rng(0).normal(size=SHAPE).astype(np.float32)


def test_majority():
  answers = jnp.asarray(
    [
      [[1, 2], [3, 4], [3, 4]],
      [[5, 0], [6, 0], [7, 0]],  # Without a majority, the first wins.
      [[1, 2], [1, 3], [1, 2]],
    ]
  )
  answer, share = voting.majority(answers)
  np.testing.assert_array_equal(answer, [[3, 4], [5, 0], [1, 2]])
  np.testing.assert_allclose(share, [2 / 3, 1 / 3, 2 / 3], rtol=1e-6)


def _save(folder, array, base_fingerprint=prompt_files.UNKNOWN):
  unknown = prompt_files.UNKNOWN
  metadata = prompt_files.PromptMetadata(base_fingerprint, unknown)
  for i, prompt in enumerate(array):
    path = folder / f"seed{i}" / "prompt.safetensors"
    path.parent.mkdir(parents=True)
    prompt_files.save_prompt(path, prompt, metadata)
  return str(folder / "seed*" / "prompt.safetensors")


@pytest.fixture(scope="module")
def pattern(tmp_path_factory):
  return _save(tmp_path_factory.mktemp("prompts"), PROMPTS)


@pytest.fixture
def model(pattern, base):
  inner = tiny.make_model()
  read = ensemble.from_files(pattern, base, inner.input_vocabulary)
  prompt = voting.prompts_factory(K, ensemble.length(pattern), read)
  inner.module = network.Transformer(tiny.config(), Injections(prompt=prompt))
  return ensemble.Ensemble(inner, K)


@pytest.mark.slow
def test_answer_is_the_majority_of_what_each_prompt_answers(model):
  params = model.get_initial_variables(jax.random.key(0), tiny.input_shapes())[
    "params"
  ]
  np.testing.assert_array_equal(params["encoder"]["prompt"]["prompt"], PROMPTS)
  rng = np.random.default_rng(1)
  batch = {
    name: jnp.asarray(rng.integers(3, 250, size=shape))
    for name, shape in tiny.input_shapes().items()
  }
  predict = jax.jit(tiny.make_model().predict_batch)
  answers = []
  for prompt in PROMPTS:
    params["encoder"]["prompt"]["prompt"] = jnp.asarray(prompt)
    answers.append(predict(params, batch))
  answers = jnp.stack(answers, axis=1)
  assert len(np.unique(answers, axis=1)[0]) > 1
  expected, share = voting.majority(answers)
  params["encoder"]["prompt"]["prompt"] = jnp.asarray(PROMPTS)
  tokens, aux = jax.jit(model.predict_batch_with_aux)(params, batch)
  np.testing.assert_array_equal(tokens, expected)
  np.testing.assert_array_equal(aux["scores"], share)


@pytest.mark.slow
def test_it_is_evaluated_like_a_model(model, base, tmp_path):
  metrics = tiny.evaluate(tmp_path, base, model)
  assert list(metrics) == [tiny.TASK]
  assert 0 <= metrics[tiny.TASK]["accuracy"] <= 100


def test_prompts_that_do_not_fit_are_refused(base, tmp_path):
  with pytest.raises(ValueError, match="at least two prompt files"):
    ensemble.find(str(tmp_path / "*"))
  _save(tmp_path / "a", PROMPTS[:1])
  _save(tmp_path / "b", PROMPTS[:1, :2])
  with pytest.raises(ValueError, match="prompts of one length"):
    ensemble.find(str(tmp_path / "*" / "*" / "*.safetensors"))
  vocabulary = tiny.make_model().input_vocabulary
  other = _save(tmp_path / "c", PROMPTS, "another")
  with pytest.raises(ValueError, match="belongs to another model"):
    ensemble.from_files(other, base, vocabulary)


def test_scores_are_refused_and_it_can_be_copied(model):
  model = copy.copy(model)
  assert isinstance(model.module, network.Transformer)
  assert model.predict_batch.__self__ is model
  with pytest.raises(ValueError, match="votes on answers"):
    model.score_batch({}, {})
