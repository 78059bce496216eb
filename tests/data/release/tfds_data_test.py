"""Tests of building TFDS data from small, made-up official folders."""

import dataclasses
import functools
import json
import re
import zipfile

import damages
from glue_cases import CASES
import pytest
from superglue_reference import REFERENCE
import tensorflow_datasets as tfds
from tensorflow_datasets.core.download import util

from prompt_tuning.commands import console
from prompt_tuning.data import task_rows
from prompt_tuning.data.release import rows as release_rows
from prompt_tuning.data.release import tfds_data as official_release

CB = "super_glue/cb:1.0.2"
CB_COUNTS = {"train": 250, "validation": 56, "test": 250}


tfds.disable_progress_bar()


def cb_rows(count):
  row = {"premise": "Mara left.", "hypothesis": "she left", "label": "neutral"}
  return [{**row, "idx": idx} for idx in range(count)]


def write_jsonl(path, rows):
  path.parent.mkdir(parents=True, exist_ok=True)
  path.write_text("".join(json.dumps(row) + "\n" for row in rows))


def write_cb(release, splits=("train", "validation", "test")):
  """Writes a release with CB only: made-up text, the official counts."""
  for split in splits:
    rows = cb_rows(CB_COUNTS[split])
    if split == "test":
      rows = [{k: v for k, v in row.items() if k != "label"} for row in rows]
    name = {"validation": "val"}.get(split, split)
    write_jsonl(release / "CB" / f"{name}.jsonl", rows)


def count_examples(data_dir):
  splits = tfds.load(CB, data_dir=data_dir, download=False)
  return {split: len(dataset) for split, dataset in splits.items()}


def test_what_is_there_is_built_and_the_rest_reported(tmp_path):
  """A killed run's files are removed, and only new splits are built again."""
  release, data_dir = tmp_path / "release", tmp_path / "data"
  (data_dir / ".incomplete" / "super_glue").mkdir(parents=True)
  write_cb(release, ["validation", "test"])
  report = official_release.convert(release, data_dir)
  assert not report.failed
  assert report.missing == [
    task.folder if task.folder != "CB" else "CB/train.jsonl"
    for task in release_rows.RELEASES["superglue"]
  ]
  assert official_release.convert(release, data_dir).kept.keys() == {CB}
  # A folder with fewer splits does not remove those of another folder.
  write_cb(tmp_path / "other", ["train"])
  report = official_release.convert(tmp_path / "other", data_dir)
  assert "['test', 'validation'] of CB too" in report.failed[CB]
  assert count_examples(data_dir) == {"validation": 56, "test": 250}
  write_cb(release)
  assert official_release.convert(release, data_dir).built == {CB: CB_COUNTS}
  assert count_examples(data_dir) == CB_COUNTS
  # The data now has a split that the folder lacks.
  (release / "CB" / "train.jsonl").unlink()
  assert official_release.convert(release, data_dir).kept.keys() == {CB}
  splits = tfds.load(CB, data_dir=data_dir, download=False)
  assert {int(example["label"]) for example in splits["train"]} == {2}
  assert {int(example["label"]) for example in splits["test"]} == {-1}
  assert [x.name for x in data_dir.glob("[!.]*")] == ["super_glue"]
  assert not (data_dir / ".incomplete").exists()


def test_a_zip_file_is_as_good_as_a_folder(tmp_path):
  write_cb(tmp_path / "folder", ["validation"])
  (tmp_path / "release").mkdir()
  with zipfile.ZipFile(tmp_path / "release" / "CB.zip", "w") as zipped:
    zipped.write(tmp_path / "folder" / "CB" / "val.jsonl", "CB/val.jsonl")
  official_release.convert(tmp_path / "release", tmp_path / "data")
  assert count_examples(tmp_path / "data") == {"validation": 56}


@pytest.mark.parametrize(
  ("kind", "reason"),
  [
    ("../train.jsonl", "expected paths inside"),
    ("/CB/train.jsonl", "expected paths inside"),
    *((x, "not a zip") for x in ("no zip", "data", "password")),
    ("compression", "stored or deflated"),
    ("size", "bytes, got 2147483648"),
  ],
)
def test_an_unsafe_or_broken_zip_file_is_refused(tmp_path, kind, reason):
  member, path = "CB/train.jsonl", tmp_path / "CB.zip"
  damages.write_broken_zip(path, kind if "/" in kind else member, kind)
  report = official_release.convert(tmp_path, tmp_path / "data")
  assert report.failed.keys() == {CB}
  assert report.failed[CB].startswith(str(path))
  assert reason in report.failed[CB]


def test_other_folders_and_counts_are_refused(tmp_path):
  with pytest.raises(ValueError, match="got none of them"):
    official_release.convert(tmp_path, tmp_path / "data")
  write_jsonl(tmp_path / "CB" / "val.jsonl", cb_rows(55))
  report = official_release.convert(tmp_path, tmp_path / "data")
  assert "expected 56 examples, got 55" in report.failed[CB]


OFFICIAL = {x["config"]: x["rows"][0] for x in REFERENCE["from_jsonl"]}
WSC_TARGET = OFFICIAL["wsc"]["target"]
GOOD_ROWS = {
  "CB": cb_rows(1)[0],
  "ReCoRD": {**OFFICIAL["record"], "qas": OFFICIAL["record"]["qas"][:1]},
  "WiC": OFFICIAL["wic"],
  "WSC": OFFICIAL["wsc"],
}
TWICE = "idx: expected one that no other example has, got 0, also on line 1"
# Each case is a line, or a change of a good line, and the error.
BAD_LINES = [
  ("CB", b"{'premise': 1}", "is not JSON: Ex"),
  ("CB", b'{"premise": "\xff"}', "is not JSON: the byte 0xff"),
  ("CB", b"[1]", r"\(the line\): expected dict, got \[1\]"),
  ("CB", b"[" * 99_999, "is not JSON: "),
  ("CB", b'{"premise": "p"}', "hypothesis: expected a value, got none"),
  ("CB", b'{"premise": "", "hypothesis": "", "idx": 0}', "label: .* a value"),
  ("CB", {"premise": 7}, "expected str, got 7"),
  ("CB", {"premise": "\ud800"}, "premise: expected text"),
  ("CB", {"idx": "1.0"}, r"idx: expected a whole number, got '1.0' \(str\)"),
  ("CB", {"idx": 2**31}, "idx: expected a whole number, got 2147483648"),
  ("CB", {"label": "maybe"}, "one of .*'neutral'.*, got 'maybe'"),
  ("CB", {}, TWICE),
  ("CB", {"idx": "0"}, TWICE),  # An index is not the string that spells it.
  (
    "ReCoRD",
    {"passage": {"text": "Ann left.", "entities": [{"start": 0, "end": 9}]}},
    r"passage\.entities\[0\]: expected .* < 9, the passage's length, got",
  ),
  (
    "ReCoRD",
    {"qas": [{"query": "q", "idx": 3}]},
    r"qas\[0\]\.answers: .* valu",
  ),
  ("WiC", {"end2": 4}, r"start2, end2: expected .* <= 3, .* got \(0, 4\)"),
  ("WiC", {"label": 1}, r"one of \(False, True, 'False', 'True'\), got 1"),
  (
    *("WSC", {"target": {**WSC_TARGET, "span2_index": 11}}),
    r"target\.span2_index: expected a word's index in \[0, 11\), got 11",
  ),
  (
    *("WSC", {"target": {**WSC_TARGET, "span1_text": "Ann"}}),
    r"target\.span1_text: expected words of the text, got 'Ann'",
  ),
]


@pytest.mark.parametrize(
  ("folder", "line", "message"), BAD_LINES, ids=[x[-1] for x in BAD_LINES]
)
def test_a_bad_row_is_named(folder, line, message):
  row = GOOD_ROWS[folder]
  if isinstance(line, dict):
    line = json.dumps(row | line).encode()
  (task,) = (
    x for x in release_rows.RELEASES["superglue"] if x.folder == folder
  )
  lines = [json.dumps(row).encode(), line]
  with pytest.raises(ValueError, match=message) as error:
    release_rows.check_lines(task, "train", lines, "train.jsonl")
  assert str(error.value).startswith("train.jsonl, line 2")


def test_exit_status_says_whether_a_task_failed(tmp_path, capsys):
  """The other task is built nevertheless."""
  write_cb(tmp_path / "release")
  wrong = tmp_path / "release" / "WiC" / "train.jsonl"
  write_jsonl(wrong, [{**GOOD_ROWS["WiC"], "idx": "no number"}])
  folders = [f"--tfds_data_dir={tmp_path}/data", f"--from={tmp_path}/release"]
  assert console.main(["prepare", "superglue", *folders]) == 1
  output, errors = capsys.readouterr()
  for part in (f"built: {CB} (", "train 250", "validation 56", "test 250"):
    assert part in output
  assert f"Error: super_glue/wic:1.0.2 is not built. {tmp_path}" in errors
  wrong.unlink()
  assert console.main(["prepare", "superglue", *folders]) == 0


def test_servers_are_asked_of_which_something_is_missing(tmp_path, monkeypatch):
  asked, down, dpr = [], "", "definite_pronoun_resolution:1.1.0"

  def head(url, timeout):
    assert timeout <= 10
    asked.append(url)
    if down in url:
      raise OSError("no answer")

  def refuse(name, **kwargs):
    raise util.DownloadError("HTTP code: 403")

  monkeypatch.setattr("requests.head", head)
  monkeypatch.setattr(tfds, "builder", refuse)
  # Without a network, one error ends the command at once.
  with pytest.raises(
    ValueError, match=r"from .*: no answer\. Without .*--from"
  ):
    official_release.download(tmp_path)
  asked.clear()
  down = "amazonaws"
  report = official_release.download(tmp_path)
  assert len(asked) == 2
  # A server that is down does not keep another server's data from being built.
  assert report.failed[CB] == "HTTP code: 403"
  assert report.failed[dpr] == "https://s3.amazonaws.com: no answer"
  assert len(report.failed) == len(release_rows.RELEASES["superglue"]) + 1
  assert not report.built
  # Everything else is already built.
  asked.clear()
  monkeypatch.setattr(
    official_release, "_is_built", lambda name, *_: name != dpr
  )
  with pytest.raises(ValueError, match=r"from https://s3.amazonaws.com: "):
    official_release.download(tmp_path)
  assert asked == ["https://s3.amazonaws.com"]


def as_json(value):
  """Returns a TFDS example, or a value of one, as the reference wrote it."""
  if isinstance(value, dict):
    return {name: as_json(inner) for name, inner in value.items()}
  if isinstance(value, bytes):
    return value.decode()
  return value.tolist() if value.ndim == 0 else [v.decode() for v in value]


@pytest.mark.parametrize(
  "case", REFERENCE["from_jsonl"], ids=lambda case: case["config"]
)
def test_features_equal_the_reference(tmp_path, monkeypatch, case):
  """TFDS reads official rows through our builder as the reference does."""
  config, count = case["config"], len(case["features"])
  by_config = {task.config: task for task in release_rows.RELEASES["superglue"]}
  # The tasks do not use WSC's unrepaired spans, but the reference has them too.
  by_config["wsc"] = dataclasses.replace(
    by_config["wsc.fixed"], config="wsc", tfds_name="super_glue/wsc:1.0.2"
  )
  task = by_config[config]
  counts = dict.fromkeys(task.counts, count)
  task = dataclasses.replace(task, counts=counts)
  monkeypatch.setitem(release_rows.RELEASES, "superglue", (task,))
  # Only rows of the test split may lack a label. The ids of AX-b are strings.
  rows = [
    {**row, "idx": str(row["idx"])} if config == "axb" else row
    for row in case["rows"]
  ]
  name = "test" if len(task.counts) > 1 else task.folder
  write_jsonl(tmp_path / task.folder / f"{name}.jsonl", rows)
  official_release.convert(tmp_path, tmp_path / "data")
  examples = tfds.load(
    f"super_glue/{config}:1.0.2",
    data_dir=tmp_path / "data",
    split="test",
    download=False,
  )
  got = [as_json(example) for example in tfds.as_numpy(examples)]
  # TFDS shuffles the examples and orders the features in its own way.
  as_text = functools.partial(json.dumps, sort_keys=True)
  assert sorted(map(as_text, got)) == sorted(map(as_text, case["features"]))


def with_counts(monkeypatch, release, counts):
  """Gives a release's tasks made-up numbers of examples."""
  tasks = [
    dataclasses.replace(x, counts=dict.fromkeys(x.counts, counts[x.config]))
    for x in release_rows.RELEASES[release]
    if x.config in counts
  ]
  monkeypatch.setitem(release_rows.RELEASES, release, tuple(tasks))


def read(task, data_dir, split):
  """Returns id -> text and target, as a task reads them."""
  row = task_rows.ROWS[task]
  dataset = tfds.load(
    row.tfds_name, split=split, data_dir=data_dir, download=False
  )
  return {
    example["idx" if "idx" in example else "id"]: (
      example["inputs"].decode(),
      example["targets"].decode(),
    )
    for example in row.preprocess(dataset).as_numpy_iterator()
  }


def test_tables_of_glue_are_read_as_t5_reads_them(tmp_path, monkeypatch):
  tables = CASES["tables"]
  with_counts(monkeypatch, "glue", {case["task"]: 2 for case in tables})
  for case in tables:
    path = tmp_path / "glue" / case["file"]
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(case["content"].encode())
  folders = [f"--tfds_data_dir={tmp_path}/data", f"--from={tmp_path}/glue"]
  assert console.main(["prepare", "glue", *folders]) == 0
  for case in tables:
    rows = read(f"glue_{case['task']}", tmp_path / "data", case["split"])
    assert {str(idx): [*texts] for idx, texts in rows.items()} == case["rows"]
  # A table of another task is refused.
  (tmp_path / "other" / "SST-2").mkdir(parents=True)
  monkeypatch.undo()
  for content, message in (
    ("text\tlabel\na\t1\n", r"expected the columns \['sentence', 'label'\]"),
    ("sentence\tlabel\na\t2\n", r"row 0, field label: expected one of"),
    ("sentence\tlabel\na\t1\n", "expected 872 examples, got 1"),
  ):
    (tmp_path / "other" / "SST-2" / "dev.tsv").write_text(content)
    report = official_release.convert(
      tmp_path / "other", tmp_path / "data", "glue"
    )
    assert re.search(message, report.failed["glue/sst2:2.0.0"])


def test_questions_of_squad_and_mrqa(tmp_path, monkeypatch):
  with_counts(monkeypatch, "squad", {"quoref": 2, "drop": 1})
  asked = [
    {"id": "a", "question": "Who sat?", "answers": [{"text": "a cat"}]},
    {"id": "b", "question": "Where?", "answers": [{"text": "mat."}] * 2},
  ]
  for answer in (x for question in asked for x in question["answers"]):
    answer["answer_start"] = 0
  paragraphs = [{"context": "A cat sat on a mat.\n", "qas": asked}]
  path = tmp_path / "quoref.json"
  path.write_text(json.dumps({"data": [{"paragraphs": paragraphs}]}))
  of_mrqa = {"qid": "c", "question": "Who?", "answers": ["Tom", "T."]}
  of_mrqa |= {"question_tokens": [["Who", 0]], "detected_answers": []}
  row = {"context": "Tom", "context_tokens": [["Tom", 0]], "qas": [of_mrqa]}
  header = {"header": {"dataset": "DROP", "split": "dev"}}
  write_jsonl(tmp_path / "DROP.jsonl", [header, row])
  report = official_release.convert(tmp_path, tmp_path / "data", "squad")
  assert not report.failed
  context = "context: A cat sat on a mat . "
  assert read("squad_quoref", tmp_path / "data", "validation") == {
    b"a": (f"question: Who sat ? {context}", "a cat"),
    b"b": (f"question: Where ? {context}", "mat . "),
  }
  assert read("mrqa_drop", tmp_path / "data", "test") == {
    b"c": ("question: Who ? context: Tom", "Tom")
  }
  asked[0]["answers"] = []
  path.write_text(json.dumps({"data": [{"paragraphs": paragraphs}]}))
  report = official_release.convert(tmp_path, tmp_path / "other", "squad")
  problem = "answers of 'Who sat?': expected one or more, got none"
  assert problem in report.failed["squad/quoref:3.0.0"]
