"""The ladder's examples: stable, balanced, and disjoint between splits."""

import collections
import hashlib
import itertools
import json

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
