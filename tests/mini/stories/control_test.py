"""Words alone do not solve the tasks."""

import pytest

from prompt_tuning.data import superglue
from prompt_tuning.mini.stories import control

# The answers of ReCoRD are names of the passage: seeing which ones occur and
# picking one of them is right one time in three.
GAIN = {"record": 35}


@pytest.mark.slow
@pytest.mark.parametrize("row", superglue.SUPER_GLUE, ids=lambda row: row.name)
def test_bag_of_words_stays_near_the_majority(row):
  result = control.measure(row)
  assert result.bag_of_words - result.majority < GAIN.get(row.name, 6)


def test_bag_of_words_would_find_a_word_that_tells_the_label(monkeypatch):
  examples = [
    {"inputs": f"{word} {i}", "targets": target}
    for i in range(20)
    for word, target in (("did", "True"), ("never", "False"))
  ]
  monkeypatch.setattr(control, "read", lambda row, split: examples)
  assert control.measure(superglue.BOOLQ) == control.Control(50, 100)
