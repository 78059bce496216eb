"""Tests of the schema of records and of their only writer."""

import json
import pathlib
import subprocess

import pytest

from t5x.runs import record_schema, records


def _record(**fields):
  return {
    "schema": record_schema.VERSION,
    "kind": "train",
    "status": "running",
    "started": "now",
    "command": [],
    **fields,
  }


BEST = {"step": 1, "metrics": {"cb": {"accuracy": 75.0}}}


@pytest.mark.parametrize(
  ("text", "message"),
  [
    ("", "Invalid JSON"),
    (b"\xff", "Invalid JSON"),
    ("[" * 100_000, "Invalid JSON: recursion"),
    ("[]", "Input should be an object"),
    ("{}", "kind: Field required"),
    (json.dumps(_record(schema=2)), "schema: Input should be 3"),
    (json.dumps(_record(step="a")), "step: Input should be a valid integer"),
    (
      json.dumps(_record(best=BEST | {"score": 101})),
      "score 101.0 is not a mean",
    ),
    (
      json.dumps(_record(best=BEST | {"score": -3})),
      "score -3.0 is not a mean",
    ),
  ],
)
def test_what_is_no_record_is_refused(text, message):
  what = "here is not the record of a run"
  with pytest.raises(ValueError, match=f"{what}: .*{message}"):
    record_schema.parse(text, "here")


def test_metric_of_another_range_is_no_percentage():
  metrics = {"mine": {"perplexity": 1234.5, "correlation": -12.0}}
  record = _record(evals=[{"step": 1, "metrics": metrics}])
  assert record_schema.parse(record, "here").evals[0].metrics == metrics


def test_records_say_where_they_hold(tmp_path):
  records.RunRecord(str(tmp_path), "train").write()
  device = json.loads((tmp_path / "record.json").read_text())["device"]
  assert device["cpus"] >= 1
  assert device["cpu"] == records.cpu_model()


def test_records_name_the_commit():
  git = ["git", "-C", pathlib.Path(records.__file__).parent]
  command = [*git, "ls-files", "--error-unmatch", records.__file__]
  is_tracked = subprocess.run(command, capture_output=True).returncode == 0
  done = subprocess.run(
    [*git, "rev-parse", "HEAD"], capture_output=True, text=True
  )
  # An untracked copy may be inside another project's repository.
  expected = done.stdout.strip() if is_tracked else None
  assert records.environment()["commit"] == expected


def test_committed_records_are_as_they_would_be_written():
  results = pathlib.Path(__file__).parents[2] / "results"
  texts = [path.read_text() for path in results.glob("*/**/*.json")]
  texts = [text for text in texts if '"schema":' in text]
  assert len(texts) > 900
  for text in texts:
    assert record_schema.dump(json.loads(text), "here") == text


@pytest.mark.parametrize("score", [float("nan"), float("inf"), -1.0, 101.0])
def test_score_that_is_none_is_not_written(tmp_path, score):
  record = records.RunRecord(str(tmp_path), "train")
  record.write()
  before = (tmp_path / "record.json").read_text()
  bad = [{"step": 1, "metrics": {"cb": {"accuracy": score}}}]
  with pytest.raises(ValueError, match="cb/accuracy is"):
    record.write(evals=bad)
  assert (tmp_path / "record.json").read_text() == before
  # The error can still be written.
  record.write(status="failed", error="ValueError: cb/accuracy")
