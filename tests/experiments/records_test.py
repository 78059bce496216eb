"""Tests of records: validation and scores."""

import functools
import json

import made_up
import pytest

from prompt_tuning.experiments import records
from t5x.runs import record_schema


@pytest.fixture(scope="module")
def fields(tmp_path_factory):
  """A function that makes the fields of a record."""
  sheet = made_up.sheet(tmp_path_factory.mktemp("sheet"))
  return functools.partial(made_up.record, sheet.cells()[0])


def _parse(fields):
  return record_schema.parse(json.dumps(fields), "here", records.RunRecord)


def test_score_is_the_mean_of_metrics(fields):
  """The share of invalid answers and a mixture's own average do not count.

  A task with no other metric has no score.
  """
  best = fields()["best"]
  metrics = {**best["metrics"], "all": {"super_glue_average": 1.0}}
  metrics |= {"free": {"invalid": 0.0}}
  for x in (best, {**best, "metrics": metrics}):
    record = _parse(fields(best=x))
    assert record.scores == {"cb": 40.0}


@pytest.mark.parametrize(
  ("overrides", "message"),
  [
    ({"status": "failed"}, "a failed run has an error"),
    ({"versions": {}}, "a finished run has versions"),
    ({"scores": 1}, "scores: Extra inputs"),
    ({"kind": "eval", "evals": [], "best": None}, "evaluation has evals"),
    ({"seconds": float("nan")}, "seconds"),
  ],
)
def test_wrong_record_is_refused(fields, overrides, message):
  with pytest.raises(ValueError, match=message):
    _parse(fields(**overrides))


def test_which_runs_count(fields):
  """Runs that finished or that an action stopped early count."""
  every = [
    _parse(fields(status=status, error="no"))
    for status in ("finished", "stopped", "failed", "interrupted", "running")
  ]
  assert [x.counts for x in every] == [True, True, False, False, False]
  assert [x.is_over for x in every] == [True, True, True, False, False]


def test_stored_record_that_says_running_is_of_a_killed_run(
  fields, tmp_path, caplog
):
  path = tmp_path / "full" / "sheet" / "a.json"
  path.parent.mkdir(parents=True)
  path.write_text(json.dumps(fields(status="running")))
  (stored,) = records.Archive(results=tmp_path).stored
  assert stored.name == "full/sheet/a"
  assert stored.record.status == "interrupted"
  assert f"{path} says that its run is running, but no run" in caplog.text
