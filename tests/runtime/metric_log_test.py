"""Tests of a run's metrics: lines after a restart and TensorBoard's events."""

import errno
import json
import os
import pathlib
from unittest import mock

import pytest
from tensorboardX.proto import event_pb2
import tensorflow as tf
import tiny

from t5x.files import storage
from t5x.runs import metric_log


def _events(folder):
  (path,) = pathlib.Path(folder).glob("events.out.tfevents.*")
  return [
    event_pb2.Event.FromString(x.numpy())
    for x in tf.data.TFRecordDataset(str(path))
  ]


def _curves(folder):
  return [
    (event.step, value.tag, value.simple_value)
    for event in _events(folder)
    for value in event.summary.value
  ]


def test_lines_of_a_log_are_there_when_they_are_written(tmp_path):
  log = metric_log.MetricLog(str(tmp_path), 7)
  log.add_text("config", "a = 1", 7)
  log.write(8, "train", {"loss": 2.0, "accuracy": 0.5})
  start = _events(tmp_path)[1]
  # TensorBoard hides what an earlier attempt logged from this step on.
  assert start.step == 8
  assert start.session_log.status == event_pb2.SessionLog.START
  curves = [(8, "train/loss", 2.0), (8, "train/accuracy", 0.5)]
  assert _curves(tmp_path)[1:] == curves
  assert _curves(tmp_path)[0][:2] == (7, "config/text_summary")
  log.write(9, "train", {"loss": 1.0})
  log.close()
  assert _curves(tmp_path)[1:] == [*curves, (9, "train/loss", 1.0)]


def test_a_bucket_has_a_copy(tmp_path, monkeypatch):
  monkeypatch.setattr(storage, "is_bucket", lambda path: True)
  log = metric_log.MetricLog(str(tmp_path), 0)
  for step in (1, 2):
    log.write(step, "train", {"loss": 1.0})
    assert [x[0] for x in _curves(tmp_path)] == list(range(1, step + 1))
  log.close()


def test_full_disk_ends_the_run_and_does_not_hold_it(tmp_path, monkeypatch):
  log = metric_log.MetricLog(str(tmp_path), 0)
  full = OSError(errno.ENOSPC, "No space left on device")
  monkeypatch.setattr(os, "fsync", mock.Mock(side_effect=full))
  # tensorboardX's own writer blocks after ten values if its thread is dead.
  for step in range(1, 16):
    with pytest.raises(OSError, match="No space left"):
      log.write(step, "train", {"loss": 1.0})
  monkeypatch.undo()
  log.close()


def test_first_process_alone_writes(tmp_path, monkeypatch):
  monkeypatch.setattr("jax.process_index", lambda: 1)
  log = metric_log.MetricLog(str(tmp_path), 0)
  log.write(1, "train", {"loss": 1.0})
  log.close()
  assert not list(tmp_path.iterdir())


def test_evaluations_are_there_once_and_those_done_again_are_not(tmp_path):
  path = tmp_path / "task-metrics.jsonl"
  path.write_text(
    "".join(json.dumps({"step": step}) + "\n" for step in (10, 20, 20, 30))
    + '{"step": 40, "accu'
  )
  metric_log.keep_evaluations(tmp_path, {10, 20})
  assert tiny.lines(path) == [{"step": 10}, {"step": 20}]
  assert [file.name for file in tmp_path.iterdir()] == [path.name]


def test_file_that_is_whole_is_left_alone(tmp_path):
  path = tmp_path / "metrics.jsonl"
  path.write_text('{"step":   1}\n')
  metric_log.keep(path, lambda line: True)
  assert path.read_text() == '{"step":   1}\n'
  metric_log.keep(tmp_path / "none", lambda line: True)
  assert not (tmp_path / "none").exists()


def test_damaged_file_is_kept_and_what_is_missing_is_added(tmp_path, caplog):
  path = tmp_path / "metrics.jsonl"
  path.write_bytes(b'{"step": 1}\n\xff\xfe\n{"loss": 2}\n{"step": 3}\n')
  metric_log.keep(path, lambda line: True, [{"step": 3}, {"step": 2}])
  assert tiny.lines(path) == [{"step": 1}, {"step": 2}, {"step": 3}]
  assert "line 2 has no metrics of a step" in caplog.text
  assert (tmp_path / "metrics.jsonl.damaged").exists()
