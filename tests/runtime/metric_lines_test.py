"""Lines of metrics after a restart."""

import json

from t5x.runs import metric_lines


def _lines(path):
  return [json.loads(line) for line in path.read_text().splitlines()]


def test_evaluations_are_there_once_and_those_done_again_are_not(tmp_path):
  path = tmp_path / "task-metrics.jsonl"
  path.write_text(
    "".join(json.dumps({"step": step}) + "\n" for step in (10, 20, 20, 30))
    + '{"step": 40, "accu'
  )
  metric_lines.keep_evaluations(tmp_path, {10, 20})
  assert _lines(path) == [{"step": 10}, {"step": 20}]
  assert [file.name for file in tmp_path.iterdir()] == [path.name]


def test_file_that_is_whole_is_left_alone(tmp_path):
  path = tmp_path / "metrics.jsonl"
  path.write_text('{"step":   1}\n')
  metric_lines.keep(path, lambda line: True)
  assert path.read_text() == '{"step":   1}\n'
  metric_lines.keep(tmp_path / "none", lambda line: True)
  assert not (tmp_path / "none").exists()


def test_damaged_file_is_kept_and_what_is_missing_is_added(tmp_path, caplog):
  path = tmp_path / "metrics.jsonl"
  path.write_bytes(b'{"step": 1}\n\xff\xfe\n{"loss": 2}\n{"step": 3}\n')
  metric_lines.keep(
    path, lambda line: True, lambda kept: [{"step": 2, "after": len(kept)}]
  )
  assert _lines(path) == [{"step": 1}, {"step": 2, "after": 2}, {"step": 3}]
  assert "line 2 has no metrics of a step" in caplog.text
  assert (tmp_path / "metrics.jsonl.damaged").exists()
