"""The pretraining tasks: what is hidden and to be written; and the probes."""

import collections
import random

import pytest
import seqio

from prompt_tuning.data import vocabulary as model_vocabulary
from prompt_tuning.mini.ladder import corpus, probes, prose, vocabulary


@pytest.fixture(autouse=True)
def _small(monkeypatch):
  ladder = vocabulary.ladder()
  monkeypatch.setattr(model_vocabulary.MODEL_VOCABULARY, "in_use", ladder)
  monkeypatch.setattr(corpus, "DOCUMENTS_PER_SPLIT", {"train": 200})
  _forget()
  yield
  _forget()


def _forget():
  corpus.documents.cache_clear()
  corpus.long_documents.cache_clear()


def pairs(task, count=200, seed=0, lengths=corpus.LENGTHS):
  dataset = seqio.get_mixture_or_task(task).get_dataset(
    lengths, "train", shuffle=False, seed=seed
  )
  return [
    [example[name].tolist() for name in ("inputs", "targets")]
    for example in dataset.take(count).as_numpy_iterator()
  ]


def documents():
  ladder = vocabulary.ladder()
  return [
    ladder.encode(d.replace(corpus.prose.CUT, ""))
    for d in corpus.documents("train")
  ]


def test_span_corruption_can_be_undone():
  ladder = vocabulary.ladder()
  first = ladder.vocab_size - 1
  hidden = 0
  for (inputs, targets), document in zip(
    pairs("ladder_span_corruption"), documents(), strict=True
  ):
    spans = collections.defaultdict(list)
    for token in targets[:-1]:
      if token > first - 100:
        current = token
      else:
        spans[current].append(token)
    # Sentinels come in order, from the first.
    assert list(spans) == [first - i for i in range(len(spans))]
    assert all(spans.values())
    restored = [
      word for token in inputs[:-1] for word in spans.pop(token, [token])
    ]
    assert restored == document
    assert not spans
    hidden += sum(token <= first - 100 for token in targets[:-1])
  total = sum(map(len, documents()))
  assert hidden / total == pytest.approx(0.15, abs=0.03)


def test_lm_targets_go_on_where_inputs_stop():
  cuts = collections.Counter()
  for (inputs, targets), document, text in zip(
    pairs("ladder_lm"), documents(), corpus.documents("train"), strict=True
  ):
    assert inputs[:-1] + targets[:-1] == document
    assert inputs[-1] == targets[-1] == vocabulary.ladder().eos_id
    before = text.split(corpus.prose.CUT)[0]
    cuts[inputs[:-1] == vocabulary.ladder().encode(before)] += 1
  # Some of the cuts that could be anywhere are before an answer too.
  assert 0.83 < cuts[True] / cuts.total() < 0.93


def test_long_documents_come_whole_and_go_on_after_the_last():
  encode = vocabulary.ladder().encode
  longest = 0
  for (inputs, targets), text, last in zip(
    pairs("ladder_lm_long", lengths=corpus.LONG_LENGTHS),
    corpus.long_documents("train"),
    corpus.documents("train"),
    strict=True,
  ):
    assert text.endswith(last)
    assert text.count(corpus.prose.CUT) == 1
    whole = encode(text.replace(corpus.prose.CUT, ""))
    assert inputs[:-1] + targets[:-1] == whole
    longest = max(longest, len(whole))
  assert 2 * corpus.LENGTHS["inputs"] < longest < corpus.LONG_LENGTHS["inputs"]


def test_changes_depend_on_the_seed():
  assert pairs("ladder_lm", 50) == pairs("ladder_lm", 50)
  assert pairs("ladder_lm", 50) != pairs("ladder_lm", 50, seed=1)


def test_changes_are_new_in_every_epoch():
  dataset = seqio.get_mixture_or_task("ladder_lm").get_dataset(
    corpus.LENGTHS, "train", shuffle=False, seed=0, num_epochs=2
  )
  lengths = [len(e["targets"]) for e in dataset.as_numpy_iterator()]
  assert len(lengths) == 400
  assert lengths[:200] != lengths[200:]


@pytest.mark.parametrize("suffix", ["", "_spans"])
@pytest.mark.parametrize("name", [make.__name__ for make in probes.MAKERS])
def test_only_the_right_answer_to_a_probe_counts(name, suffix):
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


def test_the_mixture_of_probes_for_span_corruption_asks_behind_a_sentinel():
  mixture = seqio.get_mixture_or_task("ladder_probes_spans")
  assert len(mixture.tasks) == len(probes.MAKERS)
  dataset = mixture.tasks[0].get_dataset(None, "test", shuffle=False)
  for example in dataset.take(5).as_numpy_iterator():
    sentinel = vocabulary.ladder().vocab_size - 1
    assert example["inputs"][-2] == example["targets"][0] == sentinel
