"""Tests for t5x.storage; those with a bucket's server: `bucket*_test`."""

import pytest

from t5x import storage

OLD, NEW = "gs://bucket/checkpoint_1.new", "gs://bucket/checkpoint_1"


@pytest.mark.parametrize(
  "marks",
  [
    [storage.MARK, "digests.json"],  # A run's.
    ["digests.json"],  # One of a disk, copied to a bucket.
    ["checkpoint"],  # T5X's format 3.
  ],
)
def test_checkpoint_gets_its_marks_when_all_else_is_there(marks, monkeypatch):
  """A process may be killed after any of the copies."""
  names = sorted([*marks, "_METADATA", "run/a", "state/checkpoint", "state/b"])
  copied = []

  class FileSystem:
    def cp_file(self, old, new):
      assert old.removeprefix(OLD) == new.removeprefix(NEW)
      copied.append(new.removeprefix(f"{NEW}/"))
      if any(mark in copied for mark in marks):
        assert set(copied) >= set(names) - set(marks)

  monkeypatch.setattr(storage, "file_system", lambda path: FileSystem())
  monkeypatch.setattr(storage, "files", lambda folder: names)
  monkeypatch.setattr(storage, "remove", lambda path: copied.append(str(path)))
  storage.rename(OLD, NEW)
  assert sorted(copied[:-1]) == names
  assert copied[-2:] == [marks[0], OLD]
