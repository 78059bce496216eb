"""Words with two senses, and sentences that use each sense: `senses.toml`."""

import itertools
import pathlib
import tomllib

from prompt_tuning.mini.stories import world

# Word -> for each of its two senses, five sentences.
SENSES: dict[str, tuple[tuple[str, ...], ...]] = {
  word: tuple(tuple(sense["sentences"]) for sense in senses)
  for word, senses in tomllib.loads(
    pathlib.Path(__file__).with_name("senses.toml").read_text()
  ).items()
}

# The pairs of the first four sentences. The first is for validation and the
# second for testing, so that every sentence is equally frequent in the train
# split.
_OVERLAPPING = ((0, 1), (2, 3), (0, 2), (0, 3), (1, 2), (1, 3))


def pairs(word: str, level: str, split: str) -> list[tuple[str, str]]:
  """Returns the pairs of sentences with `word` that belong to `split`.

  Args:
    level: "overlap" for the same sense and a second word in both, "topic" for
      the same sense without one, "different" for two senses.
  """
  first, second = SENSES[word]
  pairs = {
    "overlap": [
      (sense[i], sense[j]) for sense in (first, second) for i, j in _OVERLAPPING
    ],
    "topic": [
      (clear, sense[4]) for sense in (first, second) for clear in sense[:4]
    ],
    "different": list(itertools.product(first, second)),
  }[level]
  return [x for i, x in enumerate(pairs) if world.split_of(i) == split]
