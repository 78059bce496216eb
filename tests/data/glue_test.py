"""Tests of GLUE and SQuAD against values derived by hand from T5's rules."""

from glue_cases import CASES
import pytest
import seqio
import tensorflow as tf

from prompt_tuning.data import preprocessors, task_rows

ASKED = {
  "context": "Peter's  cat\n(Tom) ate 3.5 fish\u2014raw.",
  "question": "What did Tom eat?",
}
SPACED = (
  "question: What did Tom eat ? context: Peter ' s cat ( Tom ) ate 3 . 5 "
  "fish\u2014raw . "
)


@pytest.mark.parametrize("case", CASES["texts"], ids=lambda case: case["task"])
def test_texts_of_glue_are_t5s(case):
  row = task_rows.ROWS[f"glue_{case['task']}"]
  dataset = tf.data.Dataset.from_tensors(case["raw"] | {"idx": 3})
  dataset = row.preprocess(dataset)
  (plain,) = dataset.as_numpy_iterator()
  dataset = preprocessors.add_prefix(dataset, prefix=row.prefix)
  (prefixed,) = dataset.as_numpy_iterator()
  assert prefixed["inputs"].decode() == case["inputs"]
  assert plain["inputs"].decode() == case["inputs"].split(" ", 1)[1]
  assert plain["targets"].decode() == case["targets"]
  assert plain["idx"] == 3


ANSWERS = ["fish", "3.5 fish"]


@pytest.mark.parametrize(
  ("name", "raw"),
  [
    ("squad", {"id": "a", "title": "Cats", "answers": {"text": ANSWERS}}),
    ("squad_reddit", {"id": "a", "answers": {"text": ANSWERS}}),
    ("mrqa_drop", {"qid": "a", "answers": ANSWERS}),
  ],
)
def test_questions_have_spaces_around_punctuation(name, raw):
  row = task_rows.ROWS[name]
  dataset = row.preprocess(tf.data.Dataset.from_tensors(ASKED | raw))
  (example,) = dataset.as_numpy_iterator()
  assert example["inputs"].decode() == SPACED
  assert example["targets"] == b"fish"
  assert row.postprocess("fish", example, True) == ["fish", "3 . 5 fish"]
  assert row.postprocess("fish", example, False) == "fish"


def test_answers_that_are_no_number_are_invalid():
  texts = ("3.8", "5", " 2.4", "-1", "good", "", "nan", "inf")
  values = [task_rows.ROWS["glue_stsb"].postprocess(x, {}) for x in texts]
  assert values == [3.8, 5.0, 2.4, -1.0, -1.0, -1.0, -1.0, -1.0]


@pytest.mark.parametrize(
  ("name", "trained_on"), [("mrpc", "qqp"), ("qqp", "mrpc")]
)
def test_transfer_is_scored_in_the_words_of_training(name, trained_on):
  """The evaluated task's own labels count too, as in the original code."""
  row = task_rows.ROWS[f"glue_{name}_from_{trained_on}"]
  own, learned = (task_rows.ROWS[f"glue_{x}"] for x in (name, trained_on))
  assert row.labels == learned.labels
  assert row.tfds_name == own.tfds_name
  for labels in (own.labels, learned.labels):
    assert [row.postprocess(x, {}) for x in labels] == [0, 1]
  assert row.postprocess("yes", {}) == -1
  mixture = seqio.get_mixture_or_task(f"{name}_from_{trained_on}")
  assert {x.name: "train" in x.splits for x in mixture.tasks} == {
    f"glue_{trained_on}": True,
    f"glue_{name}_from_{trained_on}": False,
  }


@pytest.mark.parametrize(
  ("task", "first", "second"),
  [
    ("rte", "premise", "hypothesis"),
    ("axb", "sentence1", "sentence2"),
  ],
)
def test_entailment_in_the_words_of_mrpc(task, first, second):
  row = task_rows.ROWS[f"glue_{task}_from_mrpc"]
  own = task_rows.ROWS[f"super_glue_{task}"]
  assert row.tfds_name == own.tfds_name
  raw = {first: "Tom ran.", second: "He moved.", "label": 0, "idx": 3}
  (example,) = row.preprocess(
    tf.data.Dataset.from_tensors(raw)
  ).as_numpy_iterator()
  assert example["inputs"] == b"sentence1: Tom ran. sentence2: He moved."
  assert example["targets"] == b"equivalent"
  for text in ("equivalent", own.labels[0]):
    assert row.postprocess(text, {}) == 0
  mixture = seqio.get_mixture_or_task("mrpc_to_entailment")
  trained = [x.name for x in mixture.tasks if "train" in x.splits]
  assert trained == ["glue_mrpc"]


def test_mixtures_of_glue_and_squad():
  glue = seqio.get_mixture_or_task("glue")
  rates = {x.name.removeprefix("glue_"): glue.get_rate(x) for x in glue.tasks}
  evaluated = {"mnli_matched": 0, "mnli_mismatched": 0, "ax": 0}
  assert rates == evaluated | {
    "cola": 8_551,
    "sst2": 67_349,
    "mrpc": 3_668,
    "qqp": 363_849,
    "stsb": 5_749,
    "mnli": 392_702,
    "qnli": 104_743,
    "rte": 2_490,
  }
  tasks = seqio.get_mixture_or_task("squad_to_mrqa").tasks
  assert [x.name for x in tasks if "train" in x.splits] == ["squad"]
  assert all("validation" in x.splits for x in tasks)
  assert len(tasks) == 7


def test_names_of_the_original_code_find_our_tasks():
  for name, ours in (
    ("glue_mrpc_v002", "glue_mrpc_prefixed"),
    ("taskless_glue_mrpc_from_qqp_v002", "glue_mrpc_from_qqp"),
    ("squad_v010_allanswers", "squad"),
    ("mrqa_drop_v100", "mrqa_drop"),
  ):
    assert seqio.get_mixture_or_task(name).name == ours


def test_training_and_validation_share_no_article():
  raw = {"title": [f"Article {i // 3}" for i in range(90)]}
  raw = tf.data.Dataset.from_tensor_slices(raw)
  select = task_rows.ROWS["squad_new_wiki"].select
  train, validation = (
    [x["title"] for x in select(raw, split).as_numpy_iterator()]
    for split in ("train", "validation")
  )
  assert len(train) + len(validation) == 90
  assert not set(train) & set(validation)
  assert len(train) > len(validation) > 0
