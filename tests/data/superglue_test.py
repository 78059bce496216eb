"""The tasks through seqio, over the examples of `superglue_text.json`."""

import numpy as np
import pytest
import seqio
import superglue_reference

from prompt_tuning.data import superglue, task_names, vocabulary
from prompt_tuning.data.sources import ExampleSource

TASKS = {
  **superglue_reference.TASKS,
  "wsc": superglue_reference.TASKS["wsc_simple_eval"],
}


def source(row):
  """The labelled examples; WSC's train split has the unlabelled one too."""
  raws = [example["raw"] for example in TASKS[row.name]["examples"]]
  labelled = [x for x in raws if x.get("label", 0) >= 0 and x.get("answers", 1)]
  splits = {"train": raws, "validation": labelled}
  return ExampleSource(splits.get, {x: len(y) for x, y in splits.items()})


@pytest.fixture(scope="module", autouse=True)
def reference_tasks():
  """`reference_boolq` ... over the examples above, in bytes."""
  before = vocabulary.MODEL_VOCABULARY.in_use
  vocabulary.of_model(seqio.ByteVocabulary())
  superglue.add_tasks("reference", source)
  yield
  for row in superglue.SUPER_GLUE:
    for suffix in ("", "_prefixed", "_sentinel"):
      seqio.TaskRegistry.remove(f"reference_{row.name}{suffix}")
  vocabulary.MODEL_VOCABULARY.in_use = before


def test_the_average_is_of_the_eight_rows():
  names = tuple(row.name for row in superglue.SUPER_GLUE)
  assert names == task_names.SUPER_GLUE


def test_mixtures_have_t5s_rates():
  t5s = {
    "super_glue_boolq": 9_427,
    "super_glue_cb": 250,
    "super_glue_copa": 400,
    "super_glue_multirc": 27_243,
    "super_glue_record": 138_854,
    "super_glue_rte": 2_490,
    "super_glue_wic": 5_428,
    "super_glue_wsc": 259,
  }

  def rates(name):
    mixture = seqio.MixtureRegistry.get(name)
    return {task.name: mixture.get_rate(task) for task in mixture.tasks}

  assert rates("super_glue") == t5s
  assert rates("super_glue_and_dpr_prefixed") == {
    f"{name}_prefixed": rate for name, rate in (t5s | {"dpr": 1_322}).items()
  }
  assert len(set(rates("super_glue_smallest").values())) == 1


def test_labels_are_what_the_targets_say():
  for row in superglue.TASKS:
    if row.labels:
      targets = {
        output["targets"]
        for example in TASKS[row.name]["examples"]
        for output in example["outputs"]
      }
      assert targets - {"<unk>"} <= set(row.labels)
      assert row.class_words == row.labels


@pytest.mark.parametrize("form", ["", "_prefixed"])
def test_features_are_the_pieces_and_the_end(form):
  task = seqio.get_mixture_or_task(f"reference_cb{form}")
  example = next(iter(task.get_dataset(None, "validation", shuffle=False)))
  output = TASKS["cb"]["examples"][0]["outputs"][0]
  text = output["inputs" if form else "inputs_taskless"]
  byte_ids = vocabulary.MODEL_VOCABULARY.encode(text)
  assert example["inputs"].numpy().tolist() == [*byte_ids, 1]
  assert example["inputs_pretokenized"].numpy().decode() == text
  assert vocabulary.MODEL_VOCABULARY.decode(example["targets"]) == "neutral"


@pytest.mark.parametrize("row", superglue.SUPER_GLUE, ids=lambda row: row.name)
def test_sentinel_stands_before_the_target_only(row):
  plain, other = (
    seqio.get_mixture_or_task(f"reference_{row.name}{form}")
    for form in ("", "_sentinel")
  )
  examples = (
    task.get_dataset(None, "validation", shuffle=False).as_numpy_iterator()
    for task in (plain, other)
  )
  for example, changed in zip(*examples, strict=True):
    np.testing.assert_array_equal(example["inputs"], changed["inputs"])
    right = example["targets_pretokenized"].decode()
    text = changed["targets_pretokenized"].decode()
    assert text == f"<extra_id_0> {right}"
    # What the model writes: right, or for WSC right in more words, or nothing.
    for answer in (right, f"old {right}", ""):
      expected = plain.postprocess_fn(answer, example=example, is_target=False)
      for said in (f"<extra_id_0> {answer}", f"<extra_id_0>{answer}", answer):
        got = other.postprocess_fn(said, example=changed, is_target=False)
        assert got == expected
    assert other.postprocess_fn(
      text, example=changed, is_target=True
    ) == plain.postprocess_fn(right, example=example, is_target=True)


def test_a_cut_input_still_ends():
  task = seqio.get_mixture_or_task("reference_cb")
  lengths = {"inputs": 10, "targets": 8}
  example = next(iter(task.get_dataset(lengths, "train", shuffle=False)))
  assert example["inputs"].shape == (10,)
  assert example["inputs"][-1] == 1


def test_wsc_trains_on_correct_referents_only():
  task = seqio.get_mixture_or_task("reference_wsc")

  def idxs(split):
    return [
      int(example["idx"])
      for example in task.get_dataset(None, split, shuffle=False)
    ]

  assert idxs("train") == [
    output["idx"]
    for example in TASKS["wsc_simple_train"]["examples"]
    for output in example["outputs"]
  ]
  assert idxs("validation") == [0, 1, 2, 3, 4]


def test_data_that_is_not_prepared_is_refused(tmp_path, monkeypatch):
  monkeypatch.setattr(seqio.utils, "_TFDS_DATA_DIR_OVERRIDE", str(tmp_path))
  mixture = seqio.get_mixture_or_task("super_glue")
  with pytest.raises(ValueError, match=r"'train' of super_glue/.* got nothing"):
    mixture.get_dataset({"inputs": 8, "targets": 8}, "train")
