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
S = 4


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


@pytest.mark.parametrize(
  ("logits", "settings", "sequence", "score"),
  [
    # The live sequence is best if none has finished.
    ((0.3, 0.0, 0.7), {"num_decodes": 1}, [2] * S, S * np.log(0.7)),
    # Greedy decoding would repeat 2 until the end.
    ((0.1, 0.4, 0.5), {"num_decodes": 1}, [1, 0, 0, 0], np.log(0.4)),
    # A high alpha prefers long sequences.
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


def test_wide_beam_finds_every_sequence():
  """The beam holds all sequences of two tokens and EOS, ties included."""
  tokens, scores = decoding.beam_search(
    **with_logits(0.2, 0.3, 0.5), num_decodes=16
  )
  pairs = zip(tokens[0].tolist(), scores[0].tolist(), strict=True)
  found = {tuple(x): score for x, score in pairs if score > decoding.NEG_INF}
  expected = {
    (*start, EOS, *[0] * (S - 1 - len(start))): np.log(
      [*(0.2 if token == 0 else 0.5 for token in start), 0.3]
    ).sum()
    / ((6 + len(start)) / 6) ** 0.6
    for length in range(S)
    for start in itertools.product((0, 2), repeat=length)
  }
  assert found == pytest.approx(expected, rel=1e-5)


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
    ({"topk": 0, "temperature": 0.0}, [1.0, 0.0, 0.0, 0.0]),
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
  for name in ("temperature", "topk", "topp"):
    with pytest.raises(ValueError, match=f"at least 0, .* {name}=-1"):
      decoding.temperature_sample(**with_logits(0.5, 0.5), **{name: -1})


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
    if suffix:  # Makes sequences end early.
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
    # Tokens without a finished sequence have no meaning.
    found = expected_scores > -1e6
    np.testing.assert_array_equal(np.asarray(tokens)[found], expected[found])
