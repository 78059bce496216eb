"""The probes: prose of held-out worlds, right answers count in full."""

import random

import pytest
import seqio

from prompt_tuning.data import vocabulary as model_vocabulary
from prompt_tuning.mini.ladder import probes, prose, vocabulary

NAMES = [make.__name__ for make in probes.MAKERS]


@pytest.fixture(autouse=True)
def _vocabulary(monkeypatch):
  ladder = vocabulary.ladder()
  monkeypatch.setattr(model_vocabulary.MODEL_VOCABULARY, "in_use", ladder)


@pytest.mark.parametrize("suffix", ["", "_spans"])
@pytest.mark.parametrize("name", NAMES)
def test_only_the_right_answer_counts(name, suffix):
  task = seqio.get_mixture_or_task(f"ladder_probe_{name}{suffix}")
  dataset = task.get_dataset(None, "validation", shuffle=False)
  targets, predictions = [], []
  for example in dataset.as_numpy_iterator():
    text = example["targets_pretokenized"].decode()
    targets.append(task.postprocess_fn(text, example=example, is_target=True))
    text = vocabulary.ladder().decode(example["targets"].tolist())
    predictions.append(task.postprocess_fn(text, example=example))
  assert len(targets) == probes.EXAMPLES
  assert len(set(targets)) > 1
  [metric_fn] = task.metric_fns
  assert metric_fn(targets, predictions) == {"accuracy": 100}
  assert metric_fn(targets, ["yes"] * len(targets)) == {"accuracy": 0}


def test_no_probe_is_in_the_prose():
  rng = random.Random(0)
  told = {prose.document(rng, "train") for _ in range(20_000)}
  for make in probes.MAKERS:
    asked = {prose.CUT.join(e) for e in probes.examples(make, "validation")}
    assert not asked & told


def test_the_mixture_for_span_corruption_asks_behind_a_sentinel():
  mixture = seqio.get_mixture_or_task("ladder_probes_spans")
  assert len(mixture.tasks) == len(NAMES)
  dataset = mixture.tasks[0].get_dataset(None, "test", shuffle=False)
  for example in dataset.take(5).as_numpy_iterator():
    sentinel = vocabulary.ladder().vocab_size - 1
    assert example["inputs"][-2] == example["targets"][0] == sentinel
