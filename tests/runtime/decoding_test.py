import functools
import itertools

import conformance
import jax
import jax.numpy as jnp
import numpy as np
import pytest
import seqio

from t5x import decoding, models, optimizers

EOS = 1
V = 4
S = 4
D = 8


class RecurrentModel:
  """A random language model whose next token depends on all before it.

  Its cache, a vector for each row, follows the beams; a scalar counts.
  """

  def __init__(self):
    rng = np.random.default_rng(0)

    def normal(*shape):
      return jnp.asarray(rng.normal(size=shape), jnp.float32)

    self._recurrent = normal(D, D)
    self._embedding = normal(V, D)
    self._head = 2 * normal(D, V)
    self.cache = {"hidden": normal(3, D), "count": jnp.int32(0)}
    self.inputs = jnp.zeros((3, S), jnp.int32)

  def _next(self, hidden, token):
    return jnp.tanh(hidden @ self._recurrent + self._embedding[token])

  def tokens_to_logits(self, state):
    hidden = self._next(state.cache["hidden"], state.cur_token[:, 0])
    count = state.cache["count"]
    # Wrong, and visibly so, if the count were not passed on.
    logits = jnp.where(count == state.cur_index, hidden @ self._head, jnp.nan)
    return logits, {"hidden": hidden, "count": count + 1}

  def log_probs(self, row, sequence):
    """Returns the log probability of each token of a sequence."""
    hidden = self.cache["hidden"][row]
    values = []
    for previous, token in zip((0, *sequence), sequence, strict=False):
      hidden = self._next(hidden, previous)
      values.append(jax.nn.log_softmax(hidden @ self._head)[token])
    return np.array(values)


@pytest.fixture
def toy():
  return RecurrentModel()


def decode(decode_fn, toy, **kwargs):
  return jax.jit(
    lambda inputs, cache: decode_fn(
      inputs, cache, toy.tokens_to_logits, EOS, **kwargs
    )
  )(toy.inputs, toy.cache)


def with_logits(*logits):
  """Returns arguments for a model that always has the same logits."""
  return {
    "inputs": jnp.zeros((1, S), jnp.int32),
    "cache": {},
    "tokens_to_logits": lambda state: (
      jnp.broadcast_to(
        jnp.log(jnp.array(logits)), (len(state.cur_token), len(logits))
      ),
      state.cache,
    ),
    "eos_id": EOS,
  }


def test_wide_beam_finds_every_sequence(toy):
  # In the last step 27 live sequences have 108 continuations, which is 2K.
  K = 54
  tokens, scores = decode(decoding.beam_search, toy, num_decodes=K)

  sequences = [
    (*tokens, EOS)
    for length in range(S)
    for tokens in itertools.product((0, 2, 3), repeat=length)
  ]
  empty = K - len(sequences)
  for row in range(3):
    finished = []
    for sequence in sequences:
      penalty = ((5 + len(sequence)) / 6) ** 0.6
      score = toy.log_probs(row, sequence).sum() / penalty
      finished.append((score, sequence + (0,) * (S - len(sequence))))
    expected_scores, expected_tokens = zip(*sorted(finished), strict=True)
    np.testing.assert_array_equal(tokens[row, empty:], expected_tokens)
    np.testing.assert_allclose(
      scores[row], [-1e7] * empty + list(expected_scores), rtol=1e-5
    )


@pytest.mark.parametrize(
  ("logits", "settings", "sequence", "score"),
  [
    # None finished: the live one.
    ((0.3, 0.0, 0.7), {"num_decodes": 1}, [2] * S, S * np.log(0.7)),
    # Greedy decoding would go on with 2, for ever.
    ((0.1, 0.4, 0.5), {"num_decodes": 1}, [1, 0, 0, 0], np.log(0.4)),
    # alpha prefers long sequences.
    ((0.0, 0.45, 0.55), {"alpha": 0.0}, [1, 0, 0, 0], np.log(0.45)),
    (
      (0.0, 0.45, 0.55),
      {"alpha": 4.0},
      [2, 2, 2, 1],
      (3 * np.log(0.55) + np.log(0.45)) / 1.5**4,
    ),
  ],
)
def test_best_beam(logits, settings, sequence, score):
  tokens, scores = decoding.beam_search(**with_logits(*logits), **settings)

  np.testing.assert_array_equal(tokens[0, -1], sequence)
  np.testing.assert_allclose(scores[0, -1], score, rtol=1e-5)


def test_greedy_takes_the_likeliest_token_each_time(toy):
  tokens, log_probs = decode(
    decoding.temperature_sample, toy, rescale_log_probs=False
  )

  for row in range(3):
    sequence = tokens[row, 0].tolist()
    length = sequence.index(EOS) + 1 if EOS in sequence else S
    assert not any(sequence[length:])
    total = 0.0
    for i in range(length):
      options = [
        toy.log_probs(row, (*sequence[:i], token))[-1] for token in range(V)
      ]
      assert sequence[i] == np.argmax(options)
      total += max(options)
    np.testing.assert_allclose(log_probs[row, 0], total, rtol=1e-5)


def test_temperature_zero_is_greedy(toy):
  greedy = decode(decoding.temperature_sample, toy)
  cold = decode(decoding.temperature_sample, toy, temperature=0.0, topk=0)

  jax.tree.map(np.testing.assert_array_equal, greedy, cold)


def test_greedy_breaks_ties_in_order():
  tokens, _ = decoding.temperature_sample(
    **with_logits(0.2, 0.0, 0.4, 0.4), num_decodes=16
  )

  assert np.all(tokens == 2)


@pytest.mark.parametrize(
  ("settings", "shares"),
  [
    ({"topk": 0}, [0.5, 0.0, 0.3, 0.2]),
    ({"topk": 2}, [0.625, 0.0, 0.375, 0.0]),
    ({"topk": 0, "topp": 0.7}, [0.625, 0.0, 0.375, 0.0]),
    ({"topk": 0, "topp": 0.4}, [1.0, 0.0, 0.0, 0.0]),
    ({"topk": 0, "temperature": 0.5}, [25 / 38, 0.0, 9 / 38, 4 / 38]),
  ],
)
def test_samples_follow_the_distribution_and_come_best_last(settings, shares):
  tokens, log_probs = decoding.temperature_sample(
    **with_logits(0.5, 0.0, 0.3, 0.2),
    decode_rng=jax.random.PRNGKey(1),
    num_decodes=2000,
    **settings,
  )

  counted = np.bincount(tokens.ravel(), minlength=4) / tokens.size
  np.testing.assert_allclose(counted, shares, atol=0.02)
  assert np.all(np.diff(log_probs[0]) >= 0)
  np.testing.assert_array_equal(tokens[0, -1], [0] * S)
  np.testing.assert_allclose(
    log_probs[0, -1], S * np.log(shares[0]), rtol=1e-5, atol=1e-6
  )


def test_contradicting_settings_are_refused():
  with pytest.raises(ValueError, match=r"topk=1 and topp=0\.9"):
    decoding.temperature_sample(**with_logits(0.5, 0.5), topp=0.9)
  with pytest.raises(ValueError, match="temperature >= 0"):
    decoding.temperature_sample(**with_logits(0.5, 0.5), temperature=-1.0)


GREEDY = functools.partial(decoding.temperature_sample, rescale_log_probs=False)


@pytest.mark.parametrize(
  ("model", "decode_fn", "num_decodes", "search", "scores"),
  [
    ("prompt", GREEDY, 1, "greedy", "sum_log_probs"),
    ("plain", decoding.beam_search, 1, "beam1", "scores"),
    ("prompt", decoding.beam_search, 4, "beam4", "scores"),
  ],
)
def test_decoding_equals_reference(
  model, decode_fn, num_decodes, search, scores
):
  prompt_length = conformance.PROMPT_LENGTH if model == "prompt" else 0
  vocabulary = seqio.PassThroughVocabulary(size=256, eos_id=EOS)
  predict = models.EncoderDecoderModel(
    conformance.transformer(prompt_length),
    vocabulary,
    vocabulary,
    optimizers.OptimizerDef(),
    decode_fn=decode_fn,
  ).predict_batch_with_aux
  predict = jax.jit(
    functools.partial(predict, num_decodes=num_decodes, return_all_decodes=True)
  )
  batch = conformance.batch()
  batch["decoder_input_tokens"] = np.zeros((4, 8), np.int32)
  for suffix in ("", "_eos"):
    params = conformance.parameters(prompt_length)
    if suffix:  # Sequences end early.
      swap = conformance.FACTS["eos_swap_token"]
      head = params["decoder"]["logits_dense"]["kernel"]
      order = np.arange(head.shape[1])
      order[[EOS, swap]] = swap, EOS
      params["decoder"]["logits_dense"]["kernel"] = head[:, order]
    tokens, aux = predict(params, batch)
    name = f"{model}{suffix}/decode/{search}"
    expected_scores = conformance.expected(f"{name}/{scores}").reshape(4, -1)
    expected = conformance.expected(f"{name}/tokens").reshape(4, -1, 8)
    np.testing.assert_allclose(aux["scores"], expected_scores, atol=1e-4)
    # What stands in places without a finished sequence has no meaning.
    found = expected_scores > -1e6
    np.testing.assert_array_equal(np.asarray(tokens)[found], expected[found])
