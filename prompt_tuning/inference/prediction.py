"""Texts to answers, with a frozen model that is in memory.

Batches have few shapes, so that little is compiled: lengths are rounded up to
powers of two. Padding changes no answer.
"""

from collections.abc import Callable, Iterator, Mapping, Sequence
import functools
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import seqio

from prompt_tuning import prompts
from prompt_tuning.inference import ranking
from prompt_tuning.injections import Injections
from prompt_tuning.models.t5.config import T5Config
from prompt_tuning.models.t5.network import Transformer
from t5x import models

_SHORTEST = 16
# Inputs that are worked on together, at most.
_BATCH_SIZE = 32


def make_model(
  config: T5Config,
  vocabulary: seqio.Vocabulary,
  injections: Injections,
  optimizer_def: Any = None,
  ranked: Sequence[str] | None = None,
) -> models.EncoderDecoderModel:
  """Makes the model of `gin/models/t5_1_1.gin`: a network and its loss.

  Args:
    config: Sizes of the network.
    vocabulary: Of inputs and targets.
    injections: What a method adds to it.
    optimizer_def: Says which parameters train, if any do.
    ranked: Labels, the likeliest of which it answers with; None: it generates
      text, by beam search with one beam.
  """
  arguments = {
    "module": Transformer(config, injections),
    "input_vocabulary": vocabulary,
    "output_vocabulary": vocabulary,
    "optimizer_def": optimizer_def,
    "z_loss": 1e-4,
  }
  if ranked is None:
    return models.EncoderDecoderModel(**arguments)
  return ranking.RankingModel(labels=tuple(ranked), **arguments)


class Predictor:
  """Compiled functions of a frozen model, which any thread may call."""

  def __init__(
    self,
    config: T5Config,
    vocabulary: seqio.Vocabulary,
    params: Mapping[str, Any],
  ):
    """Compiles nothing yet.

    Args:
      config: Sizes of the network.
      vocabulary: The model's.
      params: All its parameters; a prompt comes with each call.
    """
    self._config = config
    self._vocabulary = vocabulary
    self._params = params
    # Labels are constants of a program: others make another one.
    self._compiled = functools.lru_cache(maxsize=32)(self._compile)

  def _compile(self, labels: tuple[str, ...] | None) -> Callable[..., Any]:
    """Returns (params, prompt [P, H] or None, batch) -> (tokens, scores)."""

    def decode(params, prompt, batch):
      factory = None
      if prompt is not None:
        factory = functools.partial(prompts.Prompt, length=len(prompt))
        encoder = {**params["encoder"], "prompt": {"prompt": prompt}}
        params = {**params, "encoder": encoder}
      model = make_model(
        self._config,
        self._vocabulary,
        Injections(prompt=factory),
        ranked=labels,
      )
      tokens, aux = model.predict_batch_with_aux(
        params, batch, return_all_decodes=True
      )
      return tokens, aux["scores"]

    return jax.jit(decode)

  def generate(
    self,
    inputs: Sequence[str],
    prompt: np.ndarray | None,
    max_length: int,
  ) -> list[str]:
    """Decodes by beam search with one beam; see `decoding.beam_search`.

    Args:
      inputs: Texts.
      prompt: [P, H], or None for the model alone.
      max_length: Tokens of an answer, at most.

    Returns:
      An answer for each input.

    Raises:
      ValueError: if there is one text in place of several, or no length.
    """
    if max_length < 1:
      raise ValueError(
        f"Expected a max_length of at least 1, got {max_length}."
      )
    run = self._compiled(None)
    return [
      self._vocabulary.decode(tokens[-1].tolist())
      for batch, count in self._batches(inputs, max_length)
      for tokens in jax.device_get(run(self._params, _array(prompt), batch)[0])[
        :count
      ]
    ]

  def rank(
    self,
    inputs: Sequence[str],
    labels: Sequence[str],
    prompt: np.ndarray | None,
  ) -> list[dict[str, float]]:
    """Scores labels.

    Args:
      inputs: Texts.
      labels: What to choose from.
      prompt: [P, H], or None for the model alone.

    Returns:
      For each input, label -> log likelihood in nats, the likeliest first.

    Raises:
      ValueError: if there is no label, the vocabulary does not know one, or two
        are the same to it; or if there is one text in place of several.
    """
    if not labels or isinstance(labels, str):
      raise ValueError(f"Ranking needs labels, as a list, got {labels!r}.")
    run = self._compiled(tuple(labels))
    encoded = {
      (*self._vocabulary.encode(label), self._vocabulary.eos_id): label
      for label in labels
    }
    if len(encoded) < len(labels) or (self._vocabulary.eos_id,) in encoded:
      raise ValueError(
        f"Expected labels that differ in their tokens, got {list(labels)}."
      )
    length = max(map(len, encoded))
    ranked = []
    for batch, count in self._batches(inputs, length):
      tokens, scores = jax.device_get(run(self._params, _array(prompt), batch))
      for rows, values in zip(tokens[:count], scores[:count], strict=True):
        ranked.append(
          {
            encoded[tuple(row[row > 0].tolist())]: float(value)
            for row, value in zip(rows[::-1], values[::-1], strict=True)
          }
        )
    return ranked

  def _batches(
    self, inputs: Sequence[str], target_length: int
  ) -> Iterator[tuple[dict[str, jax.Array], int]]:
    """Yields features [B, ...], and how many rows are inputs."""
    if isinstance(inputs, str):
      raise ValueError(f"Expected a list of texts, got one: {inputs[:80]!r}.")
    eos = self._vocabulary.eos_id
    encoded = [[*self._vocabulary.encode(text), eos] for text in inputs]
    for start in range(0, len(encoded), _BATCH_SIZE):
      rows = encoded[start : start + _BATCH_SIZE]
      size = min(_round_up(len(rows), 1), _BATCH_SIZE)
      tokens = np.zeros(
        (size, _round_up(max(map(len, rows)), _SHORTEST)), np.int32
      )
      for i in range(size):  # What is left over repeats the first row.
        row = rows[i if i < len(rows) else 0]
        tokens[i, : len(row)] = row
      targets = jnp.zeros((size, target_length), jnp.int32)
      yield (
        {
          "encoder_input_tokens": jnp.asarray(tokens),
          "decoder_input_tokens": targets,
        },
        len(rows),
      )


def _array(prompt: np.ndarray | None) -> jax.Array | None:
  return None if prompt is None else jnp.asarray(prompt, jnp.float32)


def _round_up(number: int, least: int) -> int:
  """Returns a power of two that is no less than either."""
  return max(least, 1 << (number - 1).bit_length())
