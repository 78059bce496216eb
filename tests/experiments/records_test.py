"""Records: their checks and scores."""

import functools
import json

import made_up
import pytest

from prompt_tuning.experiments import records
from t5x.runs import record_schema


@pytest.fixture(scope="module")
def fields(tmp_path_factory):
  """Makes the fields of a record."""
  sheet = made_up.sheet(tmp_path_factory.mktemp("sheet"))
  return functools.partial(made_up.record, sheet.cells()[0])


def _parse(fields):
  return record_schema.parse(json.dumps(fields), "here", records.RunRecord)


def test_score_is_the_mean_of_metrics(fields):
  """Without the share of invalid answers, and a mixture's own average."""
  best = fields()["best"]
  metrics = {**best["metrics"], "all": {"super_glue_average": 1.0}}
  for x in (best, {**best, "metrics": metrics}):
    record = _parse(fields(best=x))
    assert record.scores == {"cb": 40.0}


@pytest.mark.parametrize(
  ("overrides", "message"),
  [
    ({"schema": 1}, "here is not the record of a run: schema"),
    ({"status": "failed"}, "a failed run has an error"),
    ({"versions": {}}, "a finished run has versions"),
    ({"scores": 1}, "scores: Extra inputs"),
    ({"kind": "eval", "evals": [], "best": None}, "evaluation has evals"),
    ({"seconds": float("nan")}, "seconds"),
    ({"best": {"step": 1, "metrics": {"cb": {"f1": "high"}}}}, "best.metrics"),
    (
      {"best": {"step": 1, "metrics": {"cb": {"bleu": float("nan")}}}},
      "cb/bleu is nan, which is not a number",
    ),
    (
      {"best": {"step": 1, "metrics": {"cb": {"f1": 100.5}}}},
      r"cb/f1 is 100.5, outside \[0, 100\]",
    ),
  ],
)
def test_wrong_record_is_refused(fields, overrides, message):
  with pytest.raises(ValueError, match=message):
    _parse(fields(**overrides))


@pytest.mark.parametrize(
  ("status", "counts", "is_over"),
  [
    ("finished", True, True),
    ("stopped", True, True),  # Early, by an action.
    ("failed", False, True),
    ("interrupted", False, False),
    ("running", False, False),
  ],
)
def test_which_runs_count(fields, status, counts, is_over):
  record = _parse(fields(status=status, error="no"))
  assert (record.counts, record.is_over) == (counts, is_over)


def test_stored_record_that_says_running_is_of_a_killed_run(
  fields, tmp_path, caplog
):
  (tmp_path / "sheet").mkdir()
  path = tmp_path / "sheet" / "a.json"
  path.write_text(json.dumps(fields(status="running")))
  (stored,) = records.Archive(results=tmp_path).stored
  assert stored.name == "sheet/a"
  assert stored.record.status == "interrupted"
  assert f"{path} says that its run is running, but no run" in caplog.text
