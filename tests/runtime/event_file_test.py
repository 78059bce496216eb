"""What TensorBoard reads of a run."""

import errno
import os
import pathlib

import pytest
from tensorboardX.proto import event_pb2
import tensorflow as tf

from t5x.files import storage
from t5x.runs import records


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
  log = records.MetricLog(str(tmp_path), 7)
  log.summary_writer.add_text("config", "a = 1", 7)
  log.write(8, "train", {"loss": 2.0, "accuracy": 0.5})
  start = _events(tmp_path)[1]
  # TensorBoard hides what another attempt has from there on.
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
  log = records.MetricLog(str(tmp_path), 0)
  for step in (1, 2):
    log.write(step, "train", {"loss": 1.0})
    assert [x[0] for x in _curves(tmp_path)] == list(range(1, step + 1))
  log.close()


def test_full_disk_ends_the_run_and_does_not_hold_it(tmp_path, monkeypatch):
  log = records.MetricLog(str(tmp_path), 0)

  def full(descriptor):
    raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

  monkeypatch.setattr(os, "fsync", full)
  # tensorboardX's own writer holds more than ten values of a dead thread.
  for step in range(1, 16):
    with pytest.raises(OSError, match="No space left"):
      log.write(step, "train", {"loss": 1.0})
  monkeypatch.undo()
  log.close()


def test_first_process_alone_writes(tmp_path, monkeypatch):
  monkeypatch.setattr("jax.process_index", lambda: 1)
  log = records.MetricLog(str(tmp_path), 0)
  log.write(1, "train", {"loss": 1.0})
  log.close()
  assert not list(tmp_path.iterdir())
