"""Probes of a pretrained model's abilities, in prose about held-out worlds.

Importing this module registers `ladder_probe_{answer,truth,entailment,choice,
sense,pronoun}` and two mixtures: `ladder_probes` for LM-adapted models, and
`ladder_probes_spans`, with a sentinel in place of the answer, for models that
know span corruption only. An answer counts if every word of it is right.
"""

from collections.abc import Callable, Sequence
import random
from typing import Any

import seqio
import tensorflow as tf

from prompt_tuning.data import metrics
from prompt_tuning.data.preprocessors import SENTINEL
from prompt_tuning.data.vocabulary import MODEL_VOCABULARY
from prompt_tuning.mini.ladder import prose

EXAMPLES = 200
SPLITS = ("validation", "test")

# Functions that make the sentences.
MAKERS: tuple[Callable[[random.Random, str], str], ...] = (
  prose.answer,
  prose.truth,
  prose.entailment,
  prose.choice,
  prose.sense,
  prose.pronoun,
)


def examples(
  make: Callable[[random.Random, str], str], split: str
) -> list[Sequence[str]]:
  """Returns pairs of an input and its continuation."""
  rng = random.Random(f"probe {make.__name__} {split}")
  return [make(rng, split).split(prose.CUT) for _ in range(EXAMPLES)]


def _add(make: Callable[[random.Random, str], str], spans: bool) -> str:
  name = f"ladder_probe_{make.__name__}" + ("_spans" if spans else "")
  sentinel = f"{SENTINEL} " if spans else ""

  def dataset(split: str, shuffle_files: bool, seed: int | None = None):
    del shuffle_files, seed
    before, after = zip(*examples(make, split), strict=True)
    columns: Any = {
      "inputs": [f"{text} {sentinel}" for text in before],
      "targets": [f"{sentinel}{text}" for text in after],
    }
    return tf.data.Dataset.from_tensor_slices(columns)

  source = seqio.FunctionDataSource(
    dataset, splits=SPLITS, num_input_examples=dict.fromkeys(SPLITS, EXAMPLES)
  )
  text = seqio.Feature(MODEL_VOCABULARY, add_eos=True)
  seqio.TaskRegistry.add(
    name,
    source=source,  # pyright: ignore[reportArgumentType]
    preprocessors=[
      seqio.preprocessors.tokenize,
      seqio.preprocessors.append_eos_after_trim,
    ],
    output_features={"inputs": text, "targets": text},
    # Targets have their original spaces, predictions those of the vocabulary.
    postprocess_fn=_words,
    metric_fns=[metrics.accuracy],
  )
  return name


def _words(text: str, **unused: Any) -> str:
  del unused
  return " ".join(text.split())


for _suffix, _spans in (("", False), ("_spans", True)):
  seqio.MixtureRegistry.add(
    f"ladder_probes{_suffix}",
    [_add(make, _spans) for make in MAKERS],
    default_rate=1.0,
  )
