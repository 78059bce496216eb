"""Tests of the zip files made from predictions for the two leaderboards."""

import json
import zipfile

import damages
from glue_cases import CASES
import pytest

from prompt_tuning.data.release import rows as release_rows
from prompt_tuning.data.release import submission

# Examples of each task, a right prediction in T5's words, and the value to
# submit for it.
TASKS = {
  "boolq": (3_245, "True", "true"),
  "cb": (250, "contradiction", "contradiction"),
  "copa": (500, "choice2", 1),
  "multirc": (9_693, "False", 0),
  "record": (10_000, "The U.N.", "The U.N."),
  "rte": (3_000, "not_entailment", "not_entailment"),
  "wic": (1_400, "False", "false"),
  "wsc": (146, "her dog", "True"),
  "axb": (1_104, "entailment", "entailment"),
  "axg": (356, "not_entailment", "not_entailment"),
}


def _example(task, i):
  if task == "multirc":
    return {"idx/paragraph": i // 10, "idx/question": i // 5, "idx/answer": i}
  if task == "record":
    return {"idx/passage": i, "idx/query": i + 7}
  if task == "wsc":
    return {"idx": i, "label": -1, "targets_pretokenized": "the dog"}
  return {"idx": i, "targets_pretokenized": "<unk>"}


def _infer(
  folder, task, predictions, form="", shards=1, benchmark="super_glue"
):
  """Writes the output of `t5x.infer` for a test split."""
  folder.mkdir(exist_ok=True)
  lines = [
    json.dumps({"inputs": _example(task, i), "prediction": prediction}) + "\n"
    for i, prediction in enumerate(predictions)
  ]
  name = f"{benchmark}_{task}{form}-predict.jsonl"
  for shard in range(shards):
    path = folder / f"{name}-{shard:05}-of-{shards:05}"
    path.write_text("".join(lines[shard::shards]))
  return folder


def _rows(folder, **options):
  ((name, found),) = submission.find_predictions([folder]).items()
  return submission.rows(name, *found, **options)


def _submit(folder, tasks, benchmark):
  """Writes a submission for tasks whose predictions are all alike."""
  folders = [
    _infer(folder / task, task, [said] * count, benchmark=benchmark)
    for task, (count, said, *_) in tasks.items()
  ]
  rows = {
    name: submission.rows(name, *found)
    for name, found in submission.find_predictions(folders).items()
  }
  submission.write(rows, folder / "submission.zip")
  return folder / "submission.zip"


@pytest.fixture(scope="module")
def complete(tmp_path_factory):
  """Makes a submission with all tasks."""
  return _submit(tmp_path_factory.mktemp("submission"), TASKS, "super_glue")


def _contents(path):
  with zipfile.ZipFile(path) as archive:
    return {name: archive.read(name).decode() for name in archive.namelist()}


def test_complete_submission_has_the_official_form(complete):
  assert submission.check(complete) == []
  contents = _contents(complete)
  names = "AX-b AX-g BoolQ CB COPA MultiRC RTE ReCoRD WSC WiC"
  assert sorted(contents) == [f"{name}.jsonl" for name in names.split()]
  rows = {
    name.removesuffix(".jsonl"): [json.loads(x) for x in text.splitlines()]
    for name, text in contents.items()
  }
  answers = [{"idx": i, "label": 0} for i in range(10)]
  assert rows.pop("MultiRC")[0] == {
    "idx": 0,
    "passage": {
      "questions": [
        {"idx": 0, "answers": answers[:5]},
        {"idx": 1, "answers": answers[5:]},
      ]
    },
  }
  for task in release_rows.RELEASES["superglue"]:
    if task.folder in rows:
      label = TASKS[task.name][-1]
      idx = 10 if task.name == "record" else 3
      # Types must match too: 1 is not True.
      expected = {"idx": idx, "label": label}
      assert repr(rows[task.folder][3]) == repr(expected)


@pytest.mark.parametrize(
  ("task", "form", "predictions", "labels"),
  [
    ("wic", "", ["True", "False", "True"], ["true", "false", "true"]),
    # The answer is the referent, or the text says that it is.
    ("wsc", "", ["her dog", "a cat"], ["True", "False"]),
    ("wsc", "_classification_prefixed", ["True", "False"], ["True", "False"]),
  ],
)
def test_answers_of_all_shards(tmp_path, task, form, predictions, labels):
  rows = _rows(_infer(tmp_path, task, predictions, form, shards=2))
  assert rows == [{"idx": i, "label": x} for i, x in enumerate(labels)]


def test_prediction_that_is_no_label_is_refused_or_replaced(tmp_path):
  predictions = ["entailment", "neutral", "neutral", "maybe", "<extra_id_0>"]
  folder = _infer(tmp_path, "cb", predictions)
  with pytest.raises(ValueError, match=r"line 4: 'maybe' .* 1 more of 5"):
    _rows(folder)
  labels = [row["label"] for row in _rows(folder, replace_invalid=True)]
  assert labels == ["entailment", *["neutral"] * 4]
  scores = ["3.8", "5.2", "-1.0", "0", "3.8"]
  folder = _infer(tmp_path / "glue", "stsb", scores, benchmark="glue")
  with pytest.raises(ValueError, match=r"line 2: '5.2' .* 1 more of 5"):
    _rows(folder)
  labels = [row["label"] for row in _rows(folder, replace_invalid=True)]
  assert labels == [3.8, 3.8, 3.8, 0.0, 3.8]


def test_wrong_folders_are_refused(tmp_path):
  sentinel = _infer(tmp_path / "sentinel", "cb", ["neutral"], "_sentinel")
  with pytest.raises(ValueError, match="got super_glue_cb_sentinel-predict"):
    submission.find_predictions([sentinel])
  other = _infer(tmp_path / "mnli", "mnli", ["neutral"], benchmark="glue")
  with pytest.raises(ValueError, match="got glue_mnli-predict"):
    submission.find_predictions([other])
  folder = _infer(tmp_path / "a", "cb", ["neutral"] * 2, shards=2)
  other = _infer(tmp_path / "b", "cb", ["neutral"])
  with pytest.raises(ValueError, match="Expected super_glue_cb once"):
    submission.find_predictions([folder, other])
  next(folder.glob("*00001-of*")).unlink()
  with pytest.raises(ValueError, match=r"Expected 2 shards .* got 1"):
    submission.find_predictions([folder])


def test_wrong_lines_are_refused(tmp_path):
  folder = _infer(tmp_path, "rte", ["entailment"])
  for line, message in (
    (
      '{"inputs": {"a": 1}, "prediction": "entailment"}',
      r"inputs of \['idx'\]: it",
    ),
    ("{}", "is not a prediction of .*it lacks 'inputs'"),
    ('{"inputs": {"idx": Infinity}, "prediction": "a"}', "float infinity"),
  ):
    next(folder.iterdir()).write_text(f"{line}\n")
    with pytest.raises(ValueError, match=f"line 1 .*{message}"):
      _rows(folder)


RTE = '{"idx": 0, "label": "entailment"}'


@pytest.mark.parametrize(
  ("name", "text", "problem"),
  [
    ("CB", None, "CB.jsonl is missing."),
    ("extra", "", "extra.jsonl is not part of a submission."),
    ("CB", '{"idx": 0}', "CB.jsonl, line 1, field label: expected a value"),
    ("CB", "no", "CB.jsonl, line 1 is not JSON"),
    (
      "CB",
      '{"idx": [0], "label": "neutral"}',
      "field idx: expected int, got [",
    ),
    ("MultiRC", '{"idx": 0, "label": 1}', "line 1, field passage: expected a"),
    (
      "COPA",
      '{"idx": 0, "label": true}',
      "label: expected one of (0, 1), got T",
    ),
    ("ReCoRD", '{"idx": 0, "label": 3}', "field label: expected str, got 3"),
    ("RTE", f"{RTE}\n{RTE}", "line 2, field idx: expected one that no other"),
    ("RTE", RTE, "RTE.jsonl: expected 3000 examples, got 1."),
  ],
)
def test_what_the_leaderboard_would_refuse(
  complete, tmp_path, name, text, problem
):
  contents = _contents(complete) | {f"{name}.jsonl": text}
  changed = tmp_path / "changed.zip"
  with zipfile.ZipFile(changed, "w") as archive:
    for member, content in contents.items():
      if content is not None:
        archive.writestr(member, content)
  (found,) = submission.check(changed)
  assert found.startswith(f"{name}.jsonl")
  assert problem in found


@pytest.mark.slow
def test_submission_to_glue(tmp_path):
  """A complete submission is written; incomplete or wrong ones are refused."""
  glue = CASES["submission"]
  path = _submit(tmp_path, glue, "glue")
  assert submission.check(path) == []
  contents = _contents(path)
  assert contents.keys() == {f"{file}.tsv" for *_, file, _ in glue.values()}
  for *_, file, label in glue.values():
    lines = contents[f"{file}.tsv"].splitlines()
    assert lines[:3] == ["index\tprediction", f"0\t{label}", f"1\t{label}"]
  changed = tmp_path / "changed.zip"
  with zipfile.ZipFile(changed, "w") as archive:
    for name, wrong in (
      ("WNLI", "index\tprediction\n0\tentailment\n"),
      ("STS-B", "index\tprediction\n0\t5.2\n"),
      ("CoLA", "id\tprediction\n0\t1\n"),
    ):
      archive.writestr(f"{name}.tsv", wrong)
  problems = "\n".join(submission.check(changed))
  for problem in (
    "WNLI.tsv, row 0, field prediction: expected one of ('0', '1'), got 'ent",
    "STS-B.tsv, row 0, field prediction: expected a number from 0 to 5, got",
    "CoLA.tsv is not such a table: expected the columns ['index', 'predi",
    "AX.tsv is missing.",
  ):
    assert problem in problems


@pytest.mark.parametrize("kind", ["no zip", "data", "password", "size"])
def test_a_broken_zip_file_is_no_submission(tmp_path, kind):
  path = tmp_path / "submission.zip"
  damages.write_broken_zip(path, "BoolQ.jsonl", kind)
  problem = submission.check(path)[0]
  expected = "bytes, got 2147483648" if kind == "size" else "is not a zip file"
  assert expected in problem
