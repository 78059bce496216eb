"""Probes of a pretrained model's abilities, in prose about held-out worlds.

Importing this module registers `ladder_probe_{answer,truth,entailment,choice,
sense,pronoun}` and two mixtures: `ladder_probes` for LM-adapted models, and
`ladder_probes_spans`, with a sentinel in place of the answer, for models that
know only span corruption. An answer counts if all of its words are right.
"""

from collections.abc import Sequence
import random

import seqio

from prompt_tuning.data import metrics
from prompt_tuning.data.preprocessors import SENTINEL
from prompt_tuning.data.sources import ExampleSource
from prompt_tuning.data.vocabulary import MODEL_VOCABULARY
from prompt_tuning.mini.ladder import prose

EXAMPLES = 200
SPLITS = ("validation", "test")

# Functions that make the sentences.
MAKERS: tuple[prose.Maker, ...] = (
  *(prose.answer, prose.truth, prose.entailment),
  *(prose.choice, prose.sense, prose.pronoun),
)


def examples(make: prose.Maker, split: str) -> list[Sequence[str]]:
  """Returns pairs of an input and its continuation."""
  rng = random.Random(f"probe {make.__name__} {split}")
  return [make(rng, split).split(prose.CUT) for _ in range(EXAMPLES)]


def _add(make: prose.Maker, suffix: str) -> str:
  sentinel = f"{SENTINEL} " if suffix else ""
  text = seqio.Feature(MODEL_VOCABULARY, add_eos=True)
  return seqio.TaskRegistry.add(
    f"ladder_probe_{make.__name__}{suffix}",
    source=ExampleSource(  # pyright: ignore[reportArgumentType]
      lambda split: [
        {"inputs": f"{before} {sentinel}", "targets": f"{sentinel}{after}"}
        for before, after in examples(make, split)
      ],
      dict.fromkeys(SPLITS, EXAMPLES),
    ),
    preprocessors=[
      seqio.preprocessors.tokenize,
      seqio.preprocessors.append_eos_after_trim,
    ],
    output_features={"inputs": text, "targets": text},
    # Targets keep their original spaces; predictions have the vocabulary's.
    postprocess_fn=_words,
    metric_fns=[metrics.accuracy],
  ).name


def _words(text: str, **unused: object) -> str:
  del unused
  return " ".join(text.split())


for _suffix in ("", "_spans"):
  seqio.MixtureRegistry.add(
    f"ladder_probes{_suffix}",
    [_add(make, _suffix) for make in MAKERS],
    default_rate=1.0,
  )
