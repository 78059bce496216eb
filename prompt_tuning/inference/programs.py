"""What is compiled: encoding, decoding and scoring of batches with prompts.

A row has its own prompt, in front of its own tokens: what is padded is the end
of the row. So positions in the row, and with them relative positions, are what
they are where the row is alone, and prompts of different lengths share a batch.
"""

from collections.abc import Callable, Mapping
from typing import Any, NamedTuple, cast

import flax.linen as nn
import jax
from jax import lax
import jax.numpy as jnp

from prompt_tuning.models.t5.config import T5Config
from prompt_tuning.models.t5.network import Transformer
from t5x import decoding

# Stands where a position of the prompt is: any token that is no padding.
PROMPT_TOKEN = 1
# Of the likeliest tokens, as many are told where a request asks for some.
TOP = 5
# Keys and values of the input, in every layer of the decoder.
Attended = Any


class Sampling(NamedTuple):
  """How each row is decoded.

  Attributes:
    limits: [B] int32, tokens, at most; 0 of a row that is none.
    temperatures: [B] float32.
    seeds: [B] uint32.
    choices: [B] uint32, which with the seed say what is sampled.
    wants_top: bool scalar, whether a row asks for the likeliest tokens.
  """

  limits: Any
  temperatures: Any
  seeds: Any
  choices: Any
  wants_top: Any


class State(NamedTuple):
  """A batch that is being decoded.

  Attributes:
    decoded: int32 scalar, tokens so far.
    token: [B, 1] The last of them.
    cache: The decoder's.
    tokens: [B, S] 0 behind the end.
    log_probs: [B, S] In nats, of the model's distribution.
    top: [B, S, TOP] The likeliest tokens, and
    top_log_probs: [B, S, TOP] their log probabilities, if they are wanted.
    ended: [B] Whether a row has its answer.
  """

  decoded: jax.Array
  token: jax.Array
  cache: Any
  tokens: jax.Array
  log_probs: jax.Array
  top: jax.Array
  top_log_probs: jax.Array
  ended: jax.Array


class Network:
  """A frozen T5 as functions of its parameters, to be compiled.

  Attributes:
    config: Sizes of the network.
  """

  def __init__(self, config: T5Config, eos_id: int):
    """Notes the sizes, and the end of sequence."""
    self.config = config
    self._module = Transformer(config)
    self._eos_id = eos_id

  def encode(
    self,
    params: Mapping[str, Any],
    table: jax.Array,
    tokens: jax.Array,
    slots: jax.Array,
    prompt_lengths: jax.Array,
  ) -> jax.Array:
    """Encodes a batch.

    Args:
      params: Of the model.
      table: [slots, longest, H] The prompts.
      tokens: [B, T] `PROMPT_TOKEN` at the positions of the prompt, then the
        input, then 0.
      slots: [B] Where each row's prompt is.
      prompt_lengths: [B] Its positions; 0: none.

    Returns:
      [B, T, H]
    """

    def run(module: Any) -> jax.Array:
      positions = jnp.arange(tokens.shape[1])[None, :]
      prompts = table[
        slots[:, None], jnp.minimum(positions, table.shape[1] - 1)
      ]
      embedded = module.token_embedder(tokens)
      is_prompt = positions < prompt_lengths[:, None]
      embedded = jnp.where(
        is_prompt[..., None], prompts.astype(embedded.dtype), embedded
      )
      return module.encoder(embedded, tokens, None, False)

    return cast(jax.Array, nn.apply(run, self._module)({"params": params}))

  def begin(
    self,
    params: Mapping[str, Any],
    encoded: jax.Array,
    tokens: jax.Array,
    inputs: jax.Array,
    limits: jax.Array,
    steps: int,
  ) -> tuple[State, Attended]:
    """Returns the state of a batch of which nothing is decoded yet.

    Args:
      params: Of the model.
      encoded: [E, T, H] Of `encode`; with E = B, each row has an input of its
        own, and `inputs` is not read.
      tokens: [E, T] As for `encode`.
      inputs: [B] Which of them each row continues.
      limits: [B] As in `Sampling`.
      steps: Tokens of the longest answer, S.

    Returns:
      The state; and the keys and values of the input.
    """
    B = len(limits)
    cache, attended = self._attend(params, encoded, tokens, steps)
    if len(tokens) < B:
      # What all rows share has no axis of rows.
      cache, attended = jax.tree.map(
        lambda x: x[inputs] if x.ndim else x, (cache, attended)
      )
    state = State(
      decoded=jnp.int32(0),
      token=jnp.zeros((B, 1), jnp.int32),
      cache=cache,
      tokens=jnp.zeros((B, steps), jnp.int32),
      log_probs=jnp.zeros((B, steps)),
      top=jnp.zeros((B, steps, TOP), jnp.int32),
      top_log_probs=jnp.zeros((B, steps, TOP)),
      ended=limits <= 0,
    )
    return state, attended

  def advance(
    self,
    params: Mapping[str, Any],
    attended: Attended,
    tokens: jax.Array,
    sampling: Sampling,
    state: State,
    until: jax.Array,
  ) -> State:
    """Decodes until there are as many tokens, or all rows have ended.

    Args:
      params: Of the model.
      attended: Of `begin`.
      tokens: [B, T] As for `encode`.
      sampling: Of each row.
      state: Of `begin` or of this.
      until: int32 scalar, at most S.

    Returns:
      The state then.
    """
    next_logits = self._decoder(params, attended, tokens, state.tokens.shape[1])

    def step(state: State) -> State:
      logits, cache = next_logits(state.token, state.cache)
      log_probs = jax.nn.log_softmax(logits)
      token = _choose(logits, sampling, state.decoded)
      own = jnp.take_along_axis(log_probs, token[:, None], axis=1)
      top_log_probs, top = lax.cond(
        sampling.wants_top,
        lambda: tuple(lax.top_k(log_probs, TOP)),
        lambda: (
          jnp.zeros((len(token), TOP)),
          jnp.zeros((len(token), TOP), jnp.int32),
        ),
      )
      token = jnp.where(state.ended, 0, token)[:, None]

      def put(whole: jax.Array, column: jax.Array) -> jax.Array:
        return lax.dynamic_update_slice_in_dim(whole, column, state.decoded, 1)

      decoded = state.decoded + 1
      return State(
        decoded=decoded,
        token=token,
        cache=cache,
        tokens=put(state.tokens, token),
        log_probs=put(state.log_probs, own),
        top=put(state.top, top[:, None]),
        top_log_probs=put(state.top_log_probs, top_log_probs[:, None]),
        ended=state.ended
        | (token[:, 0] == self._eos_id)
        | (decoded >= sampling.limits),
      )

    return lax.while_loop(
      lambda state: (state.decoded < until) & ~jnp.all(state.ended), step, state
    )

  def search(
    self,
    params: Mapping[str, Any],
    encoded: jax.Array,
    tokens: jax.Array,
    steps: int,
    beams: int,
  ) -> tuple[jax.Array, jax.Array]:
    """Searches for the likeliest answers.

    Args:
      params: Of the model.
      encoded: [B, T, H] Of `encode`.
      tokens: [B, T] As for `encode`.
      steps: Tokens of an answer, at most: S.
      beams: K.

    Returns:
      [B, K, S] Tokens and [B, K] scores, the best last.
    """
    cache, attended = self._attend(params, encoded, tokens, steps)
    next_logits = self._decoder(params, attended, tokens, steps)
    return decoding.beam_search(
      inputs=jnp.zeros((len(tokens), steps), jnp.int32),
      cache=cache,
      tokens_to_logits=lambda state: next_logits(state.cur_token, state.cache),
      eos_id=self._eos_id,
      num_decodes=beams,
    )

  def score(
    self,
    params: Mapping[str, Any],
    encoded: jax.Array,
    tokens: jax.Array,
    labels: jax.Array,
    label_inputs: jax.Array,
    numbers: jax.Array,
  ) -> jax.Array:
    """Scores the labels of each row, which lie behind one another.

    They share the keys and values of the input, and do not see each other. Only
    distances between tokens of one label count, so it does not matter where in
    the row a label is.

    Args:
      params: Of the model.
      encoded: [B, T, H] Of `encode`.
      tokens: [B, T] As for `encode`.
      labels: [B, U] The tokens of the labels; 0 behind the last.
      label_inputs: [B, U] The same, each label moved one to the right.
      numbers: [B, U] Which label a token is of, from 1 on.

    Returns:
      [B, U] The log probability of each token, in nats.
    """
    logits = self._module.apply(
      {"params": params},
      encoded,
      tokens,
      label_inputs,
      labels,
      decoder_segment_ids=numbers,
      enable_dropout=False,
      method=self._module.decode,
    )
    log_probs = jax.nn.log_softmax(cast(jax.Array, logits))
    return jnp.take_along_axis(log_probs, labels[..., None], axis=-1)[..., 0]

  def _attend(
    self,
    params: Mapping[str, Any],
    encoded: jax.Array,
    tokens: jax.Array,
    steps: int,
  ) -> tuple[Any, Attended]:
    """Returns an empty cache of S tokens, and keys and values of the input."""
    targets = jnp.zeros((len(tokens), steps), jnp.int32)
    kept = self._module.apply(
      {"params": params},
      encoded,
      tokens,
      targets,
      targets,
      enable_dropout=False,
      decode=True,
      mutable=["cache", "attended"],
      method=self._module.decode,
    )[1]
    return kept["cache"], kept["attended"]

  def _decoder(
    self,
    params: Mapping[str, Any],
    attended: Attended,
    tokens: jax.Array,
    steps: int,
  ) -> Callable[[jax.Array, Any], tuple[jax.Array, Any]]:
    """Returns (token [R, 1], cache) -> (logits [R, V], cache)."""
    # Not read: what the decoder needs of it is in `attended`.
    encoded = jnp.zeros((*tokens.shape, self.config.emb_dim))

    def next_logits(token: jax.Array, cache: Any) -> tuple[jax.Array, Any]:
      logits, updated = self._module.apply(
        {"params": params, "cache": cache, "attended": attended},
        encoded,
        tokens,
        token,
        token,
        enable_dropout=False,
        decode=True,
        max_decode_length=steps,
        mutable=["cache"],
        method=self._module.decode,
      )
      return logits[:, 0], updated["cache"]

    return next_logits


def _choose(
  logits: jax.Array, sampling: Sampling, index: jax.Array
) -> jax.Array:
  """Returns the next token of each row, [B], of its logits [B, V]."""
  likeliest = jnp.argmax(logits, axis=-1)

  def sample() -> jax.Array:
    def of_row(row, temperature, seed, choice):
      key = jax.random.key(0)
      for number in (seed, choice, index):
        key = jax.random.fold_in(key, number)
      # Where it is 0 the result is not used.
      warm = jnp.where(temperature > 0, temperature, 1.0)
      return jax.random.categorical(key, row / warm)

    sampled = jax.vmap(of_row)(
      logits, sampling.temperatures, sampling.seeds, sampling.choices
    )
    return jnp.where(sampling.temperatures > 0, sampled, likeliest)

  return lax.cond(
    jnp.any(sampling.temperatures > 0), sample, lambda: likeliest
  ).astype(jnp.int32)
