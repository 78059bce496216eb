"""Tests for t5x.files.storage; those with a bucket's server: `bucket*_test`."""

import pathlib

import pytest

from t5x.files import storage

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


def test_upload_sends_folders_and_goes_on_with_files_of_tensorboard(
  tmp_path, monkeypatch
):
  there = tmp_path / "there"
  monkeypatch.setattr(storage, "is_bucket", lambda path: True)
  upload = storage.UploadFolder(str(there))
  here = pathlib.Path(upload.path)
  events = here / "task" / "events.out.tfevents.1"
  events.parent.mkdir()
  for content in (b"a", b"ab"):
    events.write_bytes(content)
    (here / "predictions.jsonl").write_bytes(content)
    upload.send()
    assert (there / "task" / events.name).read_bytes() == content
    assert (there / "predictions.jsonl").read_bytes() == content
    assert [x.name for x in here.iterdir()] == ["task"]
  upload.close()
  assert not here.exists()
