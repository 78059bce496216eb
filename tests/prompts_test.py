import types

import conformance
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from prompt_tuning import prompts

RNG = jax.random.key(0)
LABELS = conformance.FACTS["labels"]
REST = jax.nn.initializers.constant(0.25)
WORDS = conformance.FACTS["fake_vocab"]
VOCABULARY = types.SimpleNamespace(
  unk_id=2, encode=lambda text: WORDS.get(text, [2] if text else [])
)


@pytest.fixture(scope="module")
def embeddings() -> np.ndarray:
  """The token embeddings, [256, 32]."""
  return np.asarray(conformance.parameters()["token_embedder"]["embedding"])


def row_numbers(prompt: jax.Array, table: np.ndarray) -> list[int]:
  """Returns the number of each prompt row in the table."""
  equal = (np.asarray(prompt)[:, None] == table).all(axis=-1)
  assert (equal.sum(axis=1) == 1).all()
  return equal.argmax(axis=1).tolist()


def test_random_uniform_is_the_papers_by_default():
  sample = prompts.random_uniform()(RNG, (100, 64))
  assert sample.dtype == jnp.float32
  assert -0.5 <= sample.min() < -0.49
  assert 0.49 < sample.max() <= 0.5
  released = prompts.random_uniform(minval=0.0)(RNG, (100, 64))
  assert 0 <= released.min() < 0.01


def test_sampled_vocab_takes_different_frequent_tokens(embeddings):
  init = prompts.sampled_vocab(embeddings, population_size=50)
  rows = row_numbers(init(RNG, (20, 32)), embeddings)
  facts = conformance.FACTS["sample_of_embeddings"]["population 50, P 20"]
  assert len(set(rows)) == facts["distinct"]
  assert max(rows) < 50
  everything = row_numbers(init(RNG, (50, 32)), embeddings)
  assert sorted(everything) == list(range(50))
  another = row_numbers(init(jax.random.key(1), (20, 32)), embeddings)
  assert another != rows


def test_class_labels_are_means_of_their_pieces(embeddings):
  init = prompts.class_labels(embeddings, VOCABULARY, LABELS, REST)
  np.testing.assert_allclose(
    init(RNG, (8, 32)),
    conformance.expected("init/class_labels_P8_rest_0.25"),
    rtol=1e-6,
    atol=1e-7,
  )


@pytest.mark.parametrize(
  ("of", "shape", "message"),
  [
    (10, (20, 32), "population_size is 10"),
    (257, (20, 32), r"got 256.*gin\.prompts\..*vocab\.population_size=256"),
    (50, (20, 16), r"shape \[V, 16\]"),
    # The released code drops the labels that do not fit.
    (LABELS, (3, 32), "5 class labels for a prompt of length 3"),
    (["yes", "unheard of"], (3, 32), "'unheard of' .* of which 2 is unknown"),
    (["yes", ""], (3, 32), r"'' to have known pieces .* got \[\]"),
    (["yes"], (3, 16), r"shape \[V, 16\]"),
  ],
)
def test_initialisers_refuse(embeddings, of, shape, message):
  make, rest = prompts.sampled_vocab, [of]
  if not isinstance(of, int):
    make, rest = prompts.class_labels, [VOCABULARY, of, REST]
  with pytest.raises(ValueError, match=message):
    make(embeddings, *rest)(RNG, shape)


def test_initialisers_refuse_what_is_no_table_of_the_vocabulary(embeddings):
  for shape in ((32,), (2, 3, 4)):
    with pytest.raises(ValueError, match=r"shape \[V, H\], got \["):
      prompts.sampled_vocab(np.zeros(shape))
  with pytest.raises(ValueError, match="ids below 40"):
    prompts.class_labels(embeddings[:40], VOCABULARY, LABELS, REST)


def test_from_array_is_the_array_in_float32():
  array = np.arange(6.0).reshape(2, 3)
  prompt = prompts.from_array(array)(RNG, (2, 3))
  assert prompt.dtype == jnp.float32
  np.testing.assert_array_equal(prompt, array)
  with pytest.raises(ValueError, match=r"shape \(3, 3\), got \(2, 3\)"):
    prompts.from_array(array)(RNG, (3, 3))


def test_prompt_is_a_float32_parameter_cast_on_use():
  module = prompts.Prompt(length=4)
  embedded = jnp.ones((2, 3, 32), jnp.bfloat16)
  prompt, variables = module.init_with_output(
    RNG, jnp.ones((2, 3), int), embedded
  )
  assert variables["params"]["prompt"].shape == (4, 32)
  assert variables["params"]["prompt"].dtype == jnp.float32
  assert prompt.dtype == jnp.bfloat16


def test_prepend_prompt_shared_and_for_each_example():
  embedded = jnp.ones((2, 3, 4))
  shared = jnp.arange(8.0).reshape(2, 4)
  prompted = prompts.prepend_prompt(shared, embedded)
  assert prompted.shape == (2, 5, 4)
  np.testing.assert_array_equal(prompted[1, :2], shared)
  np.testing.assert_array_equal(prompted[:, 2:], embedded)
  own = jnp.stack([shared, -shared])
  prompted = prompts.prepend_prompt(own, embedded)
  np.testing.assert_array_equal(prompted[:, :2], own)


@pytest.mark.parametrize("shape", [(2, 5), (3, 2, 4), (4,)])
def test_prepend_prompt_refuses(shape):
  with pytest.raises(ValueError, match=r"\[P, 4\] or \[2, P, 4\]"):
    prompts.prepend_prompt(jnp.ones(shape), jnp.ones((2, 3, 4)))
