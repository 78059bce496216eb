"""Pretraining tasks over the ladder's prose.

Importing this module registers with seqio

* `ladder_span_corruption`: T5's objective. 15% of the tokens, in spans of two
  on average (documents are short), are replaced by sentinels;
* `ladder_lm`: LM adaptation. A document is cut in two, and the second part is
  the target. 85% of the cuts are just before a word that answers something,
  the others anywhere among the last six tokens;
* `ladder_lm_long`: the same, with up to four other documents before it.

All read the same documents, and process them again in every epoch.
"""

from collections.abc import Mapping, Sequence
import functools
import random
from typing import Any

import seqio
import tensorflow as tf

from prompt_tuning.data.sources import ExampleSource
from prompt_tuning.data.vocabulary import MODEL_VOCABULARY
from prompt_tuning.mini.ladder import prose

Features = Mapping[str, seqio.dataset_providers.Feature]
DOCUMENTS_PER_SPLIT = {"train": 50_000, "validation": 2_000}
# The largest number of other documents before one of `long_documents`.
MOST_BEFORE = 4
SHARE_BEFORE_ANSWERS = 0.85
_NOISE_DENSITY = 0.15
_MEAN_SPAN_LENGTH = 2
_LONGEST_CONTINUATION = 6


@functools.cache
def documents(split: str) -> tuple[str, ...]:
  """Returns the documents of a split, the same ones every time."""
  rng = random.Random(f"prose {split}")
  return tuple(
    prose.document(rng, split) for _ in range(DOCUMENTS_PER_SPLIT[split])
  )


@functools.cache
def long_documents(split: str) -> tuple[str, ...]:
  """Returns the documents of a split, each after up to `MOST_BEFORE` others.

  The other documents are drawn at random, and have no mark.
  """
  rng = random.Random(f"long prose {split}")
  unmarked = [document.replace(prose.CUT, "") for document in documents(split)]
  return tuple(
    " ".join([*rng.choices(unmarked, k=rng.randint(0, MOST_BEFORE)), document])
    for document in documents(split)
  )


class ProseSource(ExampleSource):
  """Documents: a "text" with a mark before a word that answers something."""

  def columns(self, split: str, shuffle: bool, seed: int | None) -> Any:
    """Returns a split's documents, in an order that depends only on `seed`."""
    documents: Sequence[str] = self.generate(split)
    if shuffle and seed is not None:
      documents = random.Random(seed).sample(documents, len(documents))
    return {"text": tf.constant(documents)}


def tokenize_once(
  dataset: tf.data.Dataset, output_features: Features
) -> tf.data.Dataset:
  """Tokenizes all documents at once, before training.

  Tokenizing each example in TensorFlow would take as long as a training step of
  the smallest model.

  Args:
    dataset: "text", the documents of a split.
    output_features: Features with the model's vocabulary.

  Returns:
    "tokens" [T], and "cut", the position of the mark.
  """
  encode = output_features["inputs"].vocabulary.encode
  tokens: list[int] = []
  lengths: list[int] = []
  cuts: list[int] = []
  for document in dataset.as_numpy_iterator():
    before, after = map(encode, document["text"].decode().split(prose.CUT))
    tokens += [*before, *after]
    lengths.append(len(before) + len(after))
    cuts.append(len(before))
  flat = tf.constant(tokens, tf.int32)
  rows = tf.RaggedTensor.from_row_lengths(flat, lengths)
  columns: Any = {"tokens": rows, "cut": tf.constant(cuts)}
  # Mapping turns rows of ragged columns into plain tensors.
  return tf.data.Dataset.from_tensor_slices(columns).map(lambda x: x)


@seqio.map_over_dataset(num_seeds=1)
@tf.autograph.experimental.do_not_convert  # It has no control flow.
def cut_before_answer(example: dict[str, tf.Tensor], seed: tf.Tensor):
  """Makes inputs from the tokens before a cut, and targets from the others.

  Args:
    example: "tokens" [T], and "cut", the position of the answering word.
    seed: Seed for the choice of a different cut.
  """
  tokens = example["tokens"]
  length = tf.size(tokens)
  seeds = tf.random.split(seed, 2)
  longest = tf.minimum(_LONGEST_CONTINUATION, length - 1)
  anywhere = length - tf.random.stateless_uniform(
    (), seeds[0], 1, longest + 1, tf.int32
  )
  at_answer = tf.random.stateless_uniform((), seeds[1]) < SHARE_BEFORE_ANSWERS
  cut = tf.where(at_answer, example["cut"], anywhere)
  return {"inputs": tokens[:cut], "targets": tokens[cut:]}


@seqio.map_over_dataset(num_seeds=1)
@tf.autograph.experimental.do_not_convert  # It has no control flow.
def corrupt_spans(
  example: dict[str, tf.Tensor], seed: tf.Tensor, output_features: Features
):
  """Replaces random spans by sentinels; the targets restore them.

  The tokens are cut into pieces of at least one token. Every other piece is
  noise, and the first piece of a document is kept.

  Args:
    example: "tokens" [T].
    seed: Seed of the spans.
    output_features: Features with the model's vocabulary.
  """
  tokens = example["tokens"]
  length = tf.size(tokens)
  noise = _at_least_one(tf.cast(length, tf.float32) * _NOISE_DENSITY)
  spans = _at_least_one(tf.cast(noise, tf.float32) / _MEAN_SPAN_LENGTH)
  seeds = tf.random.split(seed, 2)
  kept = _pieces(length - noise, spans, seeds[0])
  lost = _pieces(noise, spans, seeds[1])
  lengths = tf.reshape(tf.stack([kept, lost], axis=1), [-1])
  piece = tf.repeat(tf.range(2 * spans), lengths)  # [T]
  is_noise = piece % 2 == 1
  first = output_features["inputs"].vocabulary.vocab_size - 1
  is_kept = tf.logical_not(is_noise)
  return {
    "inputs": _with_sentinels(tokens, piece, is_noise, first),
    "targets": _with_sentinels(tokens, piece, is_kept, first),
  }


def _at_least_one(number: tf.Tensor) -> tf.Tensor:
  return tf.maximum(1, tf.cast(tf.round(number), tf.int32))


def _pieces(total: tf.Tensor, count: tf.Tensor, seed: tf.Tensor) -> tf.Tensor:
  """Splits `total` at random into `count` lengths of at least one."""
  order = tf.argsort(
    tf.random.stateless_uniform(tf.reshape(total - 1, [1]), seed)
  )
  cuts = tf.sort(order[: count - 1]) + 1
  return tf.concat([cuts, [total]], 0) - tf.concat([[0], cuts], 0)


def _with_sentinels(
  tokens: tf.Tensor, piece: tf.Tensor, hidden: tf.Tensor, first: int
) -> tf.Tensor:
  """Replaces each hidden piece by a sentinel.

  Pieces 0 and 1 share the first sentinel, whose id is `first`, pieces 2 and 3
  the second. So a piece that is hidden in the inputs follows the same sentinel
  in the targets.
  """
  starts = tf.concat([[True], piece[1:] != piece[:-1]], 0)
  marked = tf.where(hidden, first - piece // 2, tokens)
  return tf.boolean_mask(marked, tf.logical_or(starts, tf.logical_not(hidden)))


_TEXT = seqio.Feature(MODEL_VOCABULARY, add_eos=True)
for _name, _change, _documents in (
  ("ladder_span_corruption", corrupt_spans, documents),
  ("ladder_lm", cut_before_answer, documents),
  ("ladder_lm_long", cut_before_answer, long_documents),
):
  seqio.TaskRegistry.add(
    _name,
    source=ProseSource(  # pyright: ignore[reportArgumentType]
      _documents, DOCUMENTS_PER_SPLIT
    ),
    preprocessors=[
      tokenize_once,
      # seqio repeats the dataset here, and applies the rest again each time.
      seqio.CacheDatasetPlaceholder(),
      _change,
      seqio.preprocessors.append_eos_after_trim,
    ],
    output_features={"inputs": _TEXT, "targets": _TEXT},
  )
