"""The ladder's examples: stable, balanced, and disjoint between splits."""

import collections
import hashlib
import itertools
import json

import numpy as np
import pytest

from prompt_tuning.mini.ladder import examples

# A digest of every row of every split, and the distinct rows among the 400 of
# validation. Another digest means that recorded results are of other data.
EXPECTED = {
  "boolq": ("a9e6d4df95e2", 398),
  "cb": ("ed51943c8cc3", 400),
  "copa": ("9d6b5f0ab0f0", 70),
  "multirc": ("fef8a7cd55a2", 396),
  "record": ("ad36c3bdb381", 392),
  "rte": ("c8a4e279ed93", 399),
  "wic": ("9d7f064daba3", 385),
  "wsc": ("9e5b21e64626", 342),
}


@pytest.mark.parametrize("task", examples.TASKS)
def test_examples(task):
  examples.features.cache_clear()
  made = [examples.features(task, x) for x in examples.EXAMPLES_PER_SPLIT]
  digest = hashlib.sha256(json.dumps(made).encode()).hexdigest()[:12]
  texts = [
    {
      str(
        {k: v for k, v in row.items() if k not in ("label", "idx", "answers")}
      )
      for row in rows
    }
    for rows in made
  ]
  assert (digest, len(texts[1])) == EXPECTED[task]
  for one, other in itertools.combinations(texts, 2):
    assert not one & other

  if task != "record":
    counts = collections.Counter(row["label"] for row in made[1])
    assert max(counts.values()) - min(counts.values()) <= 1
    assert len(counts) == examples.TASKS[task][1]


def test_chance_is_higher_where_rows_repeat():
  """The best of 20 evaluations of a guesser with one answer to each text."""
  rows = examples.features("copa", "validation")
  texts = [str({**row, "label": 0, "idx": 0}) for row in rows]
  _, text = np.unique(texts, return_inverse=True)
  label = np.array([row["label"] for row in rows])
  rng = np.random.default_rng(0)

  def best(count, of_row):
    guesses = rng.integers(0, 2, (1_000, 20, count))[..., of_row]
    return 100 * (guesses == label).mean(axis=-1).max(axis=-1)

  every_row = best(len(rows), np.arange(len(rows)))
  assert every_row.mean() == pytest.approx(55, abs=1)
  of_copa = best(max(text) + 1, text)
  assert of_copa.mean() == pytest.approx(62, abs=1)
  assert np.percentile(of_copa, 95) == pytest.approx(67.5, abs=1)
