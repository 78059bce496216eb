"""Sampling and beam search over a cached, incremental decoder.

Both start from token 0, produce at most S tokens, and leave 0 after the end
token. They call `tokens_to_logits(state) -> (logits, cache)` with a
`DecodingState` of R = B * num_decodes rows, where the decodes of an example are
adjacent, and expect [R, V] logits of the next token. Arrays of the cache have
the batch as axis 0; its scalars, such as a position, are shared.
"""

from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

import flax.linen as nn
import jax
from jax import lax
import jax.numpy as jnp
from pydantic import NonNegativeFloat, NonNegativeInt, PositiveInt

# The score of a place without a finished sequence.
NEG_INF = -1.0e7


class DecodingState(NamedTuple):
  """The decoder's input at each step.

  Attributes:
    cur_index: int32 scalar, the number of tokens decoded so far.
    cur_token: [R, 1] The last decoded token; 0 at the start.
    cache: The decoder's cache.
  """

  cur_index: jax.Array
  cur_token: jax.Array
  cache: Any


TokensToLogits = Callable[[DecodingState], tuple[jax.Array, Any]]


def start_decoding(
  module: nn.Module,
  params: Mapping[str, Any],
  encoded: jax.Array,
  inputs: jax.Array,
  steps: int,
) -> tuple[Any, Mapping[str, Any]]:
  """Returns an empty cache, and the arrays of the input that decoding reads.

  Args:
    module: A module with a method `decode`.
    params: All parameters.
    encoded: [B, T, H] The encoded input.
    inputs: [B, T] The input's tokens.
    steps: The greatest number of tokens to decode.
  """
  targets = jnp.zeros((len(inputs), steps), jnp.int32)
  _, kept = module.apply(
    {"params": params},
    encoded,
    inputs,
    targets,
    targets,
    enable_dropout=False,
    decode=True,
    mutable=["cache", "attended"],
    method=module.decode,
  )
  return kept.pop("cache"), kept


def next_logits(
  module: nn.Module,
  params: Mapping[str, Any],
  kept: Mapping[str, Any],
  encoded: jax.Array,
  inputs: jax.Array,
  steps: int,
  num_decodes: int = 1,
) -> Callable[[jax.Array, Any], tuple[jax.Array, Any]]:
  """Returns a function (token [R, 1], cache) -> (logits [R, V], cache).

  The arguments are those of `start_decoding`; `kept` is its second result.
  """
  if not kept:  # T5Gemma 2, or another T5X module, reads R rows.
    encoded, inputs = jax.tree.map(
      lambda x: jnp.repeat(x, num_decodes, axis=0), (encoded, inputs)
    )

  def decode(token: jax.Array, cache: Any) -> tuple[jax.Array, Any]:
    logits, updated = module.apply(
      {"params": params, **kept, "cache": cache},
      encoded,
      inputs,
      token,
      token,
      enable_dropout=False,
      decode=True,
      max_decode_length=steps,
      mutable=["cache"],
      method=module.decode,
    )
    return logits[:, 0], updated["cache"]

  return decode


def temperature_sample(
  inputs: jax.Array,
  cache: Any,
  tokens_to_logits: TokensToLogits,
  eos_id: int,
  decode_rng: jax.Array | None = None,
  num_decodes: PositiveInt = 1,
  temperature: NonNegativeFloat = 1.0,
  topk: NonNegativeInt = 1,
  topp: NonNegativeFloat = 0.0,
  rescale_log_probs: bool = True,
) -> tuple[jax.Array, jax.Array]:
  """Samples sequences; with the defaults, takes the likeliest token each time.

  Args:
    inputs: [B, S] Only the shape counts.
    cache: The decoder's empty cache, for B rows.
    tokens_to_logits: See above.
    eos_id: The end token.
    decode_rng: PRNG key; None is the key of seed 0.
    num_decodes: Samples of each example.
    temperature: Divides the logits; 0 takes the likeliest token.
    topk: Number of the likeliest tokens to sample from; 0 means all.
    topp: Probability of the smallest set of likeliest tokens to sample from; 0
      means all tokens.
    rescale_log_probs: Whether log probabilities refer to the distribution that
      is sampled from (so 0 where there is no choice) or to the model's.

  Returns:
    [B, num_decodes, S] Tokens, and [B, num_decodes] their log probabilities up
    to the end token; the best comes last.

  Raises:
    ValueError: if a setting is negative, or two contradict each other.
  """
  if min(temperature, topk, topp) < 0 or (topk and topp):
    raise ValueError(
      "Expected numbers of at least 0, and topk or topp to be 0, got "
      f"temperature={temperature}, topk={topk} and topp={topp}."
    )
  if temperature == 0:
    temperature, topk, topp = 1.0, 1, 0.0
  if decode_rng is None:
    decode_rng = jax.random.PRNGKey(0)
  B, S = inputs.shape
  R = B * num_decodes

  def unfinished(carry):
    state, _, _, ended = carry
    return (state.cur_index < S) & ~jnp.all(ended)

  def step(carry):
    state, sequences, log_probs, ended = carry
    logits, cache = tokens_to_logits(state)
    logits = logits.astype(jnp.float32)
    rng = jax.random.fold_in(decode_rng, state.cur_index)
    token, token_log_probs = _sample(rng, logits / temperature, topk, topp)
    if not rescale_log_probs:
      token_log_probs = _log_prob(logits, token)
    token = jnp.where(ended, 0, token)
    log_probs += jnp.where(ended, 0.0, token_log_probs)
    sequences = lax.dynamic_update_slice(sequences, token, (0, state.cur_index))
    ended |= token == eos_id
    state = DecodingState(state.cur_index + 1, token, cache)
    return state, sequences, log_probs, ended

  _, sequences, log_probs, _ = lax.while_loop(
    unfinished,
    step,
    (
      _initial_state(cache, B, num_decodes),
      jnp.zeros((R, S), jnp.int32),
      jnp.zeros((R, 1)),
      jnp.zeros((R, 1), jnp.bool_),
    ),
  )
  log_probs = log_probs.reshape(B, num_decodes)
  order = jnp.argsort(log_probs, axis=1)
  return _gather((sequences.reshape(B, num_decodes, S), log_probs), order)


def _sample(
  rng: jax.Array, logits: jax.Array, topk: int, topp: float
) -> tuple[jax.Array, jax.Array]:
  """Samples from [R, V] logits, restricted as in `temperature_sample`.

  Returns:
    [R, 1] Tokens, and [R, 1] their log probabilities in the restricted
    distribution.
  """
  ranked, ids = lax.top_k(logits, topk or logits.shape[-1])
  if topp:
    # A token stays if the likelier ones sum to less than `topp`.
    probs = jax.nn.softmax(ranked)
    before = jnp.cumsum(probs, axis=-1) - probs
    ranked = jnp.where(before < topp, ranked, -jnp.inf)
  choice = jax.random.categorical(rng, ranked)[:, None]  # [R, 1]
  return jnp.take_along_axis(ids, choice, axis=1), _log_prob(ranked, choice)


def beam_search(
  inputs: jax.Array,
  cache: Any,
  tokens_to_logits: TokensToLogits,
  eos_id: int,
  num_decodes: int = 4,
  alpha: float = 0.6,
  decode_rng: jax.Array | None = None,
) -> tuple[jax.Array, jax.Array]:
  """Searches for the likeliest sequences.

  A sequence that ends scores its log probability over ((5 + length) / 6)^alpha,
  as in https://arxiv.org/abs/1609.08144. Of the 2K likeliest continuations in
  each step, those that end compete for the K places of finished sequences, and
  the K best of the others stay live. With K = 1 this is not greedy decoding:
  the second continuation may end, and win.

  Args:
    inputs: [B, S] Only the shape counts.
    cache: The decoder's empty cache, for B rows.
    tokens_to_logits: See above.
    eos_id: The end token.
    num_decodes: K, the number of beams.
    alpha: Strength of the preference for long sequences.
    decode_rng: Unused; the search is deterministic.

  Returns:
    [B, K, S] Tokens, and [B, K] scores; the best comes last. If any sequence of
    an example finished, only finished ones are returned, and empty places score
    -1e7. If none finished, the live sequences are returned with their log
    probabilities.
  """
  del decode_rng
  B, S = inputs.shape
  K = num_decodes

  def unfinished(carry):
    state, _, live_scores, _, finished_scores = carry
    # Log probabilities only fall, so this bounds every score still to come.
    attainable = live_scores[:, 0] / _brevity_penalty(S, alpha)
    improves = attainable > finished_scores[:, -1]
    return (state.cur_index < S) & jnp.any(improves)

  def step(carry):
    state, live, live_scores, finished, finished_scores = carry
    logits, cache = tokens_to_logits(state)
    scores, beams, tokens = _best_continuations(live_scores, logits)
    sequences = lax.dynamic_update_slice(
      _gather(live, beams), tokens[:, :, None], (0, 0, state.cur_index)
    )
    ends = tokens == eos_id

    live_scores, choice = lax.top_k(jnp.where(ends, -jnp.inf, scores), K)
    live, beams, tokens = _gather((sequences, beams, tokens), choice)
    cache = _map_batched(
      lambda x: _gather(x.reshape(B, K, *x.shape[1:]), beams).reshape(x.shape),
      cache,
    )

    scores /= _brevity_penalty(state.cur_index + 1, alpha)
    scores = jnp.where(ends, scores, -jnp.inf)
    finished_scores, choice = lax.top_k(
      jnp.concatenate([finished_scores, scores], axis=1), K
    )
    finished = _gather(jnp.concatenate([finished, sequences], axis=1), choice)
    state = DecodingState(state.cur_index + 1, tokens.reshape(B * K, 1), cache)
    return state, live, live_scores, finished, finished_scores

  none = jnp.full((B, K), -jnp.inf)
  empty = jnp.zeros((B, K, S), jnp.int32)
  # All beams start alike, so one of them is enough.
  start = (_initial_state(cache, B, K), empty, none.at[:, 0].set(0))
  _, live, live_scores, finished, finished_scores = lax.while_loop(
    unfinished, step, (*start, empty, none)
  )
  any_finished = finished_scores[:, :1] > -jnp.inf  # [B, 1]
  scores = jnp.where(any_finished, finished_scores, live_scores)
  sequences = jnp.where(any_finished[:, :, None], finished, live)
  return sequences[:, ::-1], jnp.maximum(scores, NEG_INF)[:, ::-1]


def _brevity_penalty(length: Any, alpha: float) -> Any:
  return ((5.0 + length) / 6.0) ** alpha


def _best_continuations(
  scores: jax.Array, logits: jax.Array
) -> tuple[jax.Array, jax.Array, jax.Array]:
  """Returns the scores, beams and tokens of the 2K likeliest continuations."""
  (B, K), V = scores.shape, logits.shape[-1]
  log_probs = jax.nn.log_softmax(logits.astype(jnp.float32))
  scores = scores[:, :, None] + log_probs.reshape(B, K, V)
  scores, choice = lax.top_k(scores.reshape(B, K * V), 2 * K)
  return scores, choice // V, choice % V


def _initial_state(cache: Any, B: int, num_decodes: int) -> DecodingState:
  return DecodingState(
    cur_index=jnp.zeros((), jnp.int32),
    cur_token=jnp.zeros((B * num_decodes, 1), jnp.int32),
    cache=_map_batched(lambda x: jnp.repeat(x, num_decodes, axis=0), cache),
  )


def _log_prob(logits: jax.Array, choice: jax.Array) -> jax.Array:
  """Returns the [R, 1] log probabilities of [R, 1] choices from [R, V]."""
  return jnp.take_along_axis(jax.nn.log_softmax(logits), choice, axis=1)


def _map_batched(fn: Callable[[jax.Array], jax.Array], cache: Any) -> Any:
  """Maps the arrays of a cache; its scalars are shared by all rows."""
  return jax.tree.map(lambda x: fn(x) if jnp.ndim(x) else x, cache)


def _gather(tree: Any, index: jax.Array) -> Any:
  """Takes [B, J] entries of axis 1 from arrays [B, K, ...]."""
  return jax.tree.map(lambda x: jax.vmap(lambda a, i: a[i])(x, index), tree)
