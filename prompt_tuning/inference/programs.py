"""Encoding, decoding and scoring of batches with prompts, to be compiled.

Each row has its own prompt, directly in front of its tokens; padding comes at
the end of the row. Positions are therefore the same as if the row were
alone, and prompts of different lengths can share a batch. A decoder's prompts
are computed once, and rows read their keys and values.
"""

from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple, cast

import flax.linen as nn
import jax
from jax import lax
import jax.numpy as jnp
import numpy as np

from prompt_tuning.inference.ranking import PackedLabels
from prompt_tuning.inference.sampling import Sampling, choose
from prompt_tuning.models import networks
from prompt_tuning.models.decoder import network as decoder
from prompt_tuning.models.layers import Config
from t5x import decoding

# Marks a position of the prompt: any token but padding would do.
PROMPT_TOKEN = 1
# How many of the likeliest tokens are returned if a request wants any.
TOP = 5
# What targets read of the input, before the first and while decoding.
Encoded = Any
Attended = Any


class State(NamedTuple):
  """A batch that is being decoded, whose rows need not have begun together.

  Attributes:
    decoded: [B] int32, tokens so far.
    token: [B, 1] The last of them.
    cache: The decoder's cache, whose scalars are [B].
    tokens: [B, S] 0 after the end.
    log_probs: [B, S] In nats, under the model's own distribution.
    top: [B, S, TOP] The likeliest tokens, if a row wants them.
    top_log_probs: [B, S, TOP] Their log probabilities.
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
  """A frozen model as functions of its parameters, to be compiled.

  Their arguments have the same meaning in all of them:

  * params: the model's parameters.
  * tokens: [B, T] From `pack`.
  * encoded: From `encode`.
  * attended: From `begin`.
  * steps: The most tokens of an answer, S.

  Attributes:
    config: Sizes of the network.
    eos_id: The end of sequence.
    keeps_prompts: Whether a prompt is computed once, for all inputs. A
      decoder's positions do not depend on those that follow; those of a T5's
      encoder do.
  """

  def __init__(self, config: Config, eos_id: int):
    """Stores its arguments."""
    self.config = config
    self.eos_id = eos_id
    self._module = networks.make(config)
    self.keeps_prompts = isinstance(self._module, decoder.Transformer)

  def pack(
    self,
    inputs: Sequence[Sequence[int]],
    prompt_lengths: Sequence[int],
    rows: int,
    length: int,
  ) -> tuple[np.ndarray, np.ndarray]:
    """Lays out inputs, behind the positions of their prompts if these are not
    kept.

    Args:
      inputs: Tokens of each, with the end of sequence.
      prompt_lengths: Positions of each input's prompt; 0: no prompt.
      rows: B, at least the number of inputs.
      length: T.

    Returns:
      [B, T] tokens and [B] prompt lengths, for `encode`.
    """
    tokens = np.zeros((rows, length), np.int32)
    lengths = np.zeros(rows, np.int32)
    lengths[: len(inputs)] = prompt_lengths
    for row, ids, positions in zip(tokens, inputs, lengths, strict=False):
      start = 0 if self.keeps_prompts else positions
      row[:start] = PROMPT_TOKEN
      row[start : start + len(ids)] = ids
    return tokens, lengths

  def table(self, params: Mapping[str, Any], prompts: jax.Array) -> Any:
    """Computes the arrays of prompts that inputs read, for `encode`.

    Args:
      prompts: [slots, longest, H], zeros behind the end of each.

    Returns:
      The prompts; for a decoder, their keys and values. Axis 0 of each array
      has the slots.
    """
    if not self.keeps_prompts:
      return prompts

    def run(module: Any) -> Encoded:
      tokens = jnp.full(prompts.shape[:2], PROMPT_TOKEN)
      embedded = prompts.astype(self.config.dtype)
      return module.encode_embedded(embedded, tokens, enable_dropout=False).past

    return nn.apply(run, self._module)({"params": params})

  def encode(
    self,
    params: Mapping[str, Any],
    table: Any,
    tokens: jax.Array,
    slots: jax.Array,
    prompt_lengths: jax.Array,
  ) -> Encoded:
    """Encodes a batch.

    Args:
      table: From `table`.
      slots: [B] The slot of each row's prompt.
      prompt_lengths: [B] The length of each row's prompt; 0: no prompt.

    Returns:
      The arrays that targets read; [B, T, H] for a T5.
    """

    def run(module: Any) -> Encoded:
      embedded = module.token_embedder(tokens)
      if self.keeps_prompts:
        past = jax.tree.map(lambda x: x[slots], table)
        positions = jnp.arange(jax.tree.leaves(past)[0].shape[2])[None]
        positions = jnp.where(
          positions < prompt_lengths[:, None], positions, decoder.NOWHERE
        )
        before = decoder.Encoded(positions, None, past)
        return module.encode_embedded(
          embedded, tokens, enable_dropout=False, before=before
        )
      positions = jnp.arange(tokens.shape[1])[None, :]
      prompts = table[
        slots[:, None], jnp.minimum(positions, table.shape[1] - 1)
      ]
      is_prompt = positions < prompt_lengths[:, None]
      embedded = jnp.where(
        is_prompt[..., None], prompts.astype(embedded.dtype), embedded
      )
      return module.encode_embedded(embedded, tokens, enable_dropout=False)

    return nn.apply(run, self._module)({"params": params})

  def begin(
    self,
    params: Mapping[str, Any],
    encoded: Encoded,
    tokens: jax.Array,
    inputs: jax.Array,
    limits: jax.Array,
    steps: int,
  ) -> tuple[State, Attended]:
    """Returns the state of a batch before its first token.

    Args:
      encoded: Of E rows, from `encode`. If E = B, each row has its own input,
        and `inputs` is not read.
      tokens: [E, T]
      inputs: [B] The input of each row, an index into `encoded`.
      limits: [B] As in `Sampling`.

    Returns:
      The state; and the keys and values of the input.
    """
    B = len(limits)
    cache, attended = decoding.start_decoding(
      self._module, params, encoded, tokens, steps
    )

    def of_rows(x: jax.Array) -> jax.Array:
      if not x.ndim:
        return jnp.full(B, x)
      return x[inputs] if len(tokens) < B else x

    cache, attended = jax.tree.map(of_rows, (cache, attended))
    state = State(
      decoded=jnp.zeros(B, jnp.int32),
      token=jnp.zeros((B, 1), jnp.int32),
      cache=cache,
      tokens=jnp.zeros((B, steps), jnp.int32),
      log_probs=jnp.zeros((B, steps)),
      top=jnp.zeros((B, steps, TOP), jnp.int32),
      top_log_probs=jnp.zeros((B, steps, TOP)),
      ended=limits <= 0,
    )
    return state, attended

  def join(
    self,
    params: Mapping[str, Any],
    running: tuple[State, Attended],
    joining: tuple[State, Attended],
    rows: jax.Array,
  ) -> tuple[State, Attended]:
    """Returns a running batch with other rows in the places of some.

    Args:
      running: Of B rows, from `begin`, `advance` or this.
      joining: Of E rows, from `begin`.
      rows: [E] Their places; B leaves a row out.
    """
    del params
    return jax.tree.map(
      lambda x, new: x.at[rows].set(new, mode="drop"), running, joining
    )

  def advance(
    self,
    params: Mapping[str, Any],
    attended: Attended,
    tokens: jax.Array,
    sampling: Sampling,
    state: State,
    steps: jax.Array,
  ) -> State:
    """Decodes some tokens, or until all rows have ended.

    Args:
      sampling: Options of each row.
      state: From `begin`, `join` or an earlier `advance`.
      steps: int32 scalar, the most tokens.

    Returns:
      The new state.
    """
    rows, length = np.arange(len(tokens)), state.tokens.shape[1]

    def next_logits(token, cache, attended, tokens):
      """Decodes one row, at its own place in its cache."""
      cache, attended = jax.tree.map(
        lambda x: x[None] if x.ndim else x, (cache, attended)
      )
      # Not read: the decoder takes it from `attended`.
      encoded = jnp.zeros((1, len(tokens), self.config.emb_dim))
      logits, cache = decoding.next_logits(
        self._module, params, attended, encoded, tokens[None], length
      )(token[None], cache)
      return logits[0], jax.tree.map(lambda x: x[0] if x.ndim else x, cache)

    def step(state: State) -> State:
      logits, cache = jax.vmap(next_logits)(
        state.token, state.cache, attended, tokens
      )
      log_probs = jax.nn.log_softmax(logits)
      token = choose(logits, sampling, state.decoded)
      own = log_probs[rows, token]
      top_log_probs, top = lax.cond(
        sampling.wants_top,
        lambda: tuple(lax.top_k(log_probs, TOP)),
        lambda: (
          jnp.zeros((len(token), TOP)),
          jnp.zeros((len(token), TOP), jnp.int32),
        ),
      )
      # Of rows that have ended, nothing is kept.
      places = jnp.where(state.ended, length, state.decoded)

      def put(whole: jax.Array, column: jax.Array) -> jax.Array:
        return whole.at[rows, places].set(column, mode="drop")

      decoded = state.decoded + ~state.ended
      return State(
        decoded=decoded,
        token=token[:, None],
        cache=cache,
        tokens=put(state.tokens, token),
        log_probs=put(state.log_probs, own),
        top=put(state.top, top),
        top_log_probs=put(state.top_log_probs, top_log_probs),
        ended=state.ended
        | (token == self.eos_id)
        | (decoded >= sampling.limits),
      )

    _, state = lax.while_loop(
      lambda carry: (carry[0] < steps) & ~jnp.all(carry[1].ended),
      lambda carry: (carry[0] + 1, step(carry[1])),
      (jnp.int32(0), state),
    )
    return state

  def search(
    self,
    params: Mapping[str, Any],
    encoded: Encoded,
    tokens: jax.Array,
    steps: int,
    beams: int,
  ) -> tuple[jax.Array, jax.Array]:
    """Searches for the likeliest answers.

    Args:
      beams: K.

    Returns:
      [B, K, S] Tokens and [B, K] scores, the best last.
    """
    cache, attended = decoding.start_decoding(
      self._module, params, encoded, tokens, steps
    )
    next_logits = decoding.next_logits(
      self._module, params, attended, encoded, tokens, steps, beams
    )
    return decoding.beam_search(
      inputs=jnp.zeros((len(tokens), steps), jnp.int32),
      cache=cache,
      tokens_to_logits=lambda state: next_logits(state.cur_token, state.cache),
      eos_id=self.eos_id,
      num_decodes=beams,
    )

  def score(
    self,
    params: Mapping[str, Any],
    encoded: Encoded,
    tokens: jax.Array,
    labels: PackedLabels,
  ) -> jax.Array:
    """Scores the labels of each row, which are packed one after another.

    Labels share the keys and values of the input and do not attend to each
    other. Only distances within a label matter, so its place in the row does
    not.

    Args:
      labels: [B, U] each.

    Returns:
      [B, U] The log probability of each token, in nats.
    """
    logits = self._module.apply(
      {"params": params},
      encoded,
      tokens,
      labels.inputs,
      labels.tokens,
      decoder_segment_ids=labels.numbers,
      enable_dropout=False,
      method=self._module.decode,
    )
    log_probs = jax.nn.log_softmax(cast(jax.Array, logits))
    tokens = jnp.asarray(labels.tokens)[..., None]
    return jnp.take_along_axis(log_probs, tokens, axis=-1)[..., 0]
