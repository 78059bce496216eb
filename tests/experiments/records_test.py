"""Records: what is one, and which run it is of."""

import json
import pathlib

import pytest

from prompt_tuning.experiments import records

ROOT = pathlib.Path(__file__).parents[2]
COMMAND = [
  "python",
  "-m",
  "t5x.train",
  "--gin_file=a.gin",
  "--gin.SEED=1",
  "--gin.LABELS=['no', \"yes\"]",
  "--gin.MODEL_DIR='runs/here'",
  "--tfds_data_dir=here",
  "--gin_file=b.gin",
]


def fields(**overrides):
  evaluation = {
    "step": 3,
    "metrics": {"cb": {"accuracy": 80.0, "f1": 60.0, "invalid": 1.0}},
    "score": 70.0,
  }
  return {
    "schema": 1,
    "kind": "train",
    "status": "finished",
    "error": None,
    "started": "2026-01-01T00:00:00+00:00",
    "command": COMMAND,
    "commit": None,
    "versions": {"jax": "0"},
    "device": {"platform": "cpu"},
    "gin": "A = 1",
    "seconds": 2.5,
    "evals": [evaluation],
    "best": evaluation,
    **overrides,
  }


def test_settings_ignore_order_quotes_and_places():
  other = [
    *("python", "-m", "t5x.train", "--gin_file=a.gin", "--gin_file=b.gin"),
    *("--gin_bindings=LABELS = [\"no\", 'yes']", "--gin.SEED=1"),
    "--gin.MODEL_DIR='elsewhere'",
    *("--gin_search_paths=there", "--traceback", "--multiprocess_gpu"),
    *("--coordinator_address=host:1", "--process_count=2", "--process_index=1"),
  ]
  assert records.settings(other) == records.settings(COMMAND)


@pytest.mark.parametrize(
  "change",
  [
    {"--gin.SEED=1": "--gin.SEED=2"},
    {"t5x.train": "t5x.eval"},
    {
      "--gin_file=a.gin": "--gin_file=b.gin",
      "--gin_file=b.gin": "--gin_file=a.gin",
    },
    {"--tfds_data_dir=here": "--dry_run"},
  ],
)
def test_settings_notice(change):
  other = [change.get(argument, argument) for argument in COMMAND]
  assert records.settings(other) != records.settings(COMMAND)


def test_settings_of_flags_with_a_space():
  spaced = [*COMMAND[:3], "--gin_file", "a.gin", *COMMAND[4:]]
  assert records.settings(spaced) == records.settings(COMMAND)
  with pytest.raises(ValueError, match=r"Expected --FLAG=VALUE, got b.gin"):
    records.settings([*COMMAND, "b.gin"])


def test_later_binding_wins():
  assert records.settings([*COMMAND, "--gin.SEED=2"]).bindings[-1] == (
    "SEED",
    "2",
  )


def test_settings_of_another_command_are_refused():
  with pytest.raises(ValueError, match="Expected a command python -m"):
    records.settings(["bash", "run.sh"])


def test_score_is_the_mean_of_metrics_but_not_of_invalid_answers():
  record = records.parse(json.dumps(fields()), "here")
  assert record.scores == {"cb": 70.0}


@pytest.mark.parametrize(
  ("overrides", "message"),
  [
    ({"schema": 3}, "here is no record of a run: schema"),
    ({"status": "failed"}, "a failed run has an error"),
    ({"versions": {}}, "a finished run has versions"),
    ({"scores": 1}, "scores: Extra inputs"),
    ({"kind": "eval", "evals": [], "best": None}, "evaluation has evals"),
    ({"seconds": float("nan")}, "seconds"),
    ({"best": {"step": 1, "metrics": {"cb": {"f1": "high"}}}}, "best.metrics"),
    (
      {"best": {"step": 1, "metrics": {"cb": {"bleu": float("nan")}}}},
      "cb/bleu is nan, which is no number",
    ),
    (
      {"best": {"step": 1, "metrics": {"cb": {"f1": 100.5}}}},
      r"cb/f1 is 100.5, outside \[0, 100\]",
    ),
  ],
)
def test_wrong_record_is_refused(overrides, message):
  with pytest.raises(ValueError, match=message):
    records.parse(json.dumps(fields(**overrides)), "here")


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
def test_which_runs_count(status, counts, is_over):
  record = records.parse(json.dumps(fields(status=status, error="no")), "here")
  assert (record.counts, record.is_over) == (counts, is_over)


def test_filed_record_that_says_running_is_of_a_killed_run(tmp_path, caplog):
  (tmp_path / "sheet").mkdir()
  path = tmp_path / "sheet" / "a.json"
  path.write_text(json.dumps(fields(status="running")))
  (filed,) = records.load(tmp_path)
  assert filed.record.status == "interrupted"
  assert f"{path} says that its run is running, but nobody" in caplog.text


def test_average_of_a_mixture_is_no_task():
  best = fields()["best"]
  metrics = {**best["metrics"], "all": {"super_glue_average": 1.0}}
  text = json.dumps(fields(best={**best, "metrics": metrics}))
  assert records.parse(text, "here").scores == {"cb": 70.0}


def test_committed_records_are_records():
  assert len(records.load(ROOT / "results")) >= 18


def test_summary():
  assert records.summarize([]) is None
  assert records.summarize([7.0]) == records.Summary(7.0, None, 1)
  summary = records.summarize([1.0, 2.0, 3.0])
  assert summary == records.Summary(2.0, 1.0, 3)
