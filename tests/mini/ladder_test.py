"""Tests of the ladder's prose, words, pretraining and probes."""

import collections
import hashlib
import random
import re
import shutil

import jax
import jax.numpy as jnp
import ml_dtypes
import numpy as np
import pytest
import seqio
import tensorflow as tf

from prompt_tuning.data import task_rows
from prompt_tuning.data.vocabulary import MODEL_VOCABULARY
from prompt_tuning.mini.ladder import (
  corpus,
  examples,
  pretraining,
  probes,
  prose,
  vocabulary,
)
from t5x import checkpoints

# In these tests, the placeholder is the ladder's vocabulary.
LADDER = MODEL_VOCABULARY
# The lengths in configs/ladder.toml.
LENGTHS = {"inputs": 26, "targets": 8}


@pytest.fixture(autouse=True)
def _small(monkeypatch):
  monkeypatch.setattr(LADDER, "in_use", vocabulary.ladder())
  monkeypatch.setattr(corpus, "DOCUMENTS_PER_SPLIT", {"train": 200})
  _forget()
  yield
  _forget()


def _forget():
  corpus.documents.cache_clear()
  corpus.long_documents.cache_clear()


def pairs(task, seed=0, lengths=LENGTHS, epochs=1):
  dataset = seqio.get_mixture_or_task(task).get_dataset(
    lengths, "train", shuffle=False, seed=seed, num_epochs=epochs
  )
  return [
    [example[name].tolist() for name in ("inputs", "targets")]
    for example in dataset.as_numpy_iterator()
  ]


def documents(of=corpus.documents):
  return [LADDER.encode(x.replace(prose.CUT, "")) for x in of("train")]


def test_documents_stay_the_same_and_have_no_form_of_a_task():
  """If the hash changes, checkpoints and records are from other prose."""
  rng = random.Random(0)
  made = "\n".join(prose.document(rng, "train") for _ in range(2_000))
  assert hashlib.sha256(made.encode()).hexdigest()[:12] == "8e83b7169fce"
  fields = ["passage", "question", "premise", "hypothesis", "query", "word"]
  fields += ["sentence1", "sentence2", "choice1", "choice2", "entities"]
  fields += [row.prefix.strip() for row in task_rows.SUPER_GLUE]
  assert not re.search(rf"\b({'|'.join(fields)})\s*:", made)


def _count_words():
  """Returns the words that `words.txt` has to list, in their order."""
  rng = random.Random("words")
  counts = collections.Counter(
    token
    for _ in range(20_000)
    for token in re.findall(
      vocabulary._TOKEN, prose.document(rng, "train").replace(prose.CUT, "")
    )
  )
  return sorted(counts, key=lambda word: (-counts[word], word))


def test_words_of_the_tasks_are_known():
  for task in examples.TASKS:
    for example in examples.features(task, "test"):
      for text in filter(lambda x: isinstance(x, str), example.values()):
        assert LADDER.unk_id not in LADDER.encode(text), text
  words = _count_words()
  assert vocabulary.WordVocabulary(words) == LADDER
  assert vocabulary.WordVocabulary(words[1:]) != LADDER


def test_text_is_the_same_in_python_and_tensorflow():
  text = "query: @placeholder is in <extra_id_0> because *she* was"
  ids = LADDER.encode(text)
  assert LADDER.unk_id not in ids
  assert LADDER.encode_tf(tf.constant(text)).numpy().tolist() == ids
  spaced = "query : @ placeholder is in <extra_id_0> because * she * was"
  assert LADDER.decode([*ids, LADDER.eos_id, 5]) == spaced
  padded = tf.constant([*ids, LADDER.eos_id, 0])
  assert LADDER.decode_tf(padded).numpy().decode() == spaced
  # Sentinels are the last ids, as in T5.
  size = LADDER.vocab_size
  assert size == 3 + len(vocabulary._WORDS.read_text().split()) + 100
  ids = LADDER.encode("<extra_id_0> <extra_id_99> zebra")
  assert ids == [size - 1, size - 100, LADDER.unk_id]


def test_span_corruption_can_be_undone():
  first = LADDER.vocab_size - 1
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
    assert inputs[-1] == targets[-1] == LADDER.eos_id
    before = text.split(prose.CUT)[0]
    cuts[inputs[:-1] == LADDER.encode(before)] += 1
  # Some of the cuts at random places are before an answer too.
  assert 0.83 < cuts[True] / cuts.total() < 0.93


def test_long_documents_come_whole_and_go_on_after_the_last():
  made = pairs("ladder_lm_long", lengths={"inputs": 126, "targets": 8})
  whole = documents(corpus.long_documents)
  assert [inputs[:-1] + targets[:-1] for inputs, targets in made] == whole
  for text, last in zip(
    *(of("train") for of in (corpus.long_documents, corpus.documents)),
    strict=True,
  ):
    assert text.endswith(last)
    assert text.count(prose.CUT) == 1
  assert 2 * LENGTHS["inputs"] < max(map(len, whole)) < 126


def test_changes_depend_on_the_seed_and_are_new_in_every_epoch():
  made = pairs("ladder_lm", epochs=2)
  assert len(made) == 400
  assert made[:200] != made[200:]
  assert made[:200] == pairs("ladder_lm") != pairs("ladder_lm", seed=1)


@pytest.mark.parametrize("suffix", ["", "_spans"])
def test_only_the_right_answer_to_a_probe_counts(suffix):
  mixture = seqio.get_mixture_or_task(f"ladder_probes{suffix}")
  assert len(mixture.tasks) == len(probes.MAKERS)
  for task in mixture.tasks:
    dataset = task.get_dataset(None, "validation", shuffle=False)
    targets, predictions = [], []
    for example in dataset.as_numpy_iterator():
      text = example["targets_pretokenized"].decode()
      targets.append(task.postprocess_fn(text, example=example, is_target=True))
      text = LADDER.decode(example["targets"].tolist())
      predictions.append(task.postprocess_fn(text, example=example))
      if suffix:  # A sentinel ends the question and starts the answer.
        sentinel = LADDER.vocab_size - 1
        assert example["inputs"][-2] == example["targets"][0] == sentinel
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


def test_biases_move_ten_times_as_far():
  optimizer = pretraining.adam(0.01, steps=10, warmup_steps=1)
  params = {
    "encoder": {
      "relpos_bias": {"rel_embedding": jnp.zeros((2, 4))},
      "mlp": {"kernel": jnp.zeros((2, 4))},
    }
  }
  state = optimizer.init(params)
  gradients = jax.tree.map(lambda x: x + 0.1, params)
  for _ in range(2):  # The warm-up starts at 0.
    updates, state = optimizer.update(gradients, state, params)
  moved = updates["encoder"]
  np.testing.assert_allclose(moved["mlp"]["kernel"], -0.01, rtol=1e-3)
  np.testing.assert_allclose(
    moved["relpos_bias"]["rel_embedding"], -0.1, rtol=1e-3
  )


def test_keeps_the_checkpoints_at_10_50_and_100_percent(tmp_path):
  run, folder = tmp_path / "run", tmp_path / "ladder_xs"
  for step in range(20, 30):
    checkpoints.save_base_checkpoint(
      str(run), step, {"kernel": np.full((2, 3), step / 7, np.float32)}, {}
    )
  (run / "checkpoint_25.damaged").mkdir()  # This one was set aside.
  written = list(pretraining.export(run, folder, "lm"))
  assert [path.relative_to(folder).as_posix() for path in written] == [
    "lm_10/checkpoint_20",
    "lm_50/checkpoint_24",
    "lm_100/checkpoint_29",
  ]
  # The files are for git, so they name no folder of this machine.
  files = [path for path in folder.rglob("*") if path.is_file()]
  assert not [p for p in files if str(tmp_path).encode() in p.read_bytes()]
  base = checkpoints.open_checkpoint(str(folder / "lm_50"))
  assert base.step == 24
  assert base.metadata["name"] == "ladder_xs lm_50"
  assert base.arrays["kernel"].dtype == ml_dtypes.bfloat16
  # Without a checkpoint at each tenth, there is nothing to keep.
  for step in range(20, 29):
    shutil.rmtree(run / f"checkpoint_{step}")
  with pytest.raises(ValueError, match="EVAL_PERIOD of a tenth"):
    list(pretraining.export(run, tmp_path / "kept", "lm"))
