"""Tests that failures of a store name the place, the reason and a remedy."""

import errno
import json
import os

import pytest

from t5x.files import failures, run_lock, safe_files
from t5x.runs import records

HttpError = pytest.importorskip("gcsfs.retry").HttpError


@pytest.mark.parametrize(
  ("error", "number", "words"),
  [
    (OSError(errno.ENOSPC, "No space"), errno.ENOSPC, "Free some space"),
    (OSError(errno.EFBIG, "large"), errno.EFBIG, "ulimit"),
    (PermissionError(errno.EACCES, "no"), errno.EACCES, "Allow this account"),
    (OSError(errno.EIO, "broken"), errno.EIO, "system's log"),
    # TensorStore and TensorFlow raise these.
    (
      ValueError("UNKNOWN: [OS error 122: Disk quota exceeded] [a='b']"),
      errno.EDQUOT,
      "Disk quota exceeded. Free",
    ),
    (
      RuntimeError("Error writing: HTTP response code: 503 with body"),
      errno.EAGAIN,
      "answers with status 503. Try again later",
    ),
    # gcsfs raises these.
    (HttpError({"code": 401, "message": "who"}), errno.EACCES, "log in"),
    (HttpError({"code": "503"}), errno.EAGAIN, "status 503"),
    (OSError("Forbidden: b/bucket/o/x\nno"), errno.EACCES, "may not read"),
  ],
)
def test_failure_has_place_reason_and_remedy(error, number, words):
  with pytest.raises(failures.StoreError) as raised, failures.explained("a/b"):
    raise error
  assert raised.value.errno == number
  text = str(raised.value)
  assert text.startswith("a/b: ")
  assert words in text
  assert text.endswith("; the same command resumes the run.")
  assert "\n" not in text


@pytest.mark.parametrize(
  "error",
  [
    FileNotFoundError(errno.ENOENT, "none"),
    FileExistsError(errno.EEXIST, "there"),
    run_lock.LockLostError("taken"),
    ValueError("expected 3, got 503"),
  ],
)
def test_other_errors_stay_themselves(error):
  with pytest.raises(type(error)) as raised, failures.explained("a/b"):
    raise error
  assert raised.value is error


def test_record_has_the_room_to_say_that_the_disk_is_full(
  tmp_path, monkeypatch
):
  """On a full disk, the record frees and uses the space that it reserved."""
  write, path = safe_files.write, tmp_path / "record.json"

  def full(*arguments):
    if path.exists() and list(tmp_path.glob(".record.json.*.tmp")):
      raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), str(path))
    write(*arguments)

  monkeypatch.setattr(safe_files, "write", full)
  record = records.RunRecord(str(tmp_path), "eval")
  with pytest.raises(OSError, match="No space"), record:
    record.write(evals=[])
  assert os.listdir(tmp_path) == ["record.json"]
  fields = json.loads(path.read_text())
  assert fields["status"] == "failed"
  assert "No space" in fields["error"]
