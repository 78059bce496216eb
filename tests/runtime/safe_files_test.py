"""Files are whole or not there, wherever their writing is cut off."""

import errno
import os
import pathlib
import stat

import pytest

from prompt_tuning import project_files as whole_files
from t5x.files import safe_files

# The runtime's writer, and that of prompts, which needs no runtime.
WRITERS = pytest.mark.parametrize(
  "write", [safe_files.write, whole_files.write]
)


@WRITERS
def test_links_are_replaced_and_not_followed(tmp_path, write):
  victim = tmp_path / "victim"
  victim.write_text("kept")
  names = ["record.json", "record.json.tmp", ".record.json.tmp"]
  for name in names:
    (tmp_path / name).symlink_to(victim)
  write(tmp_path / "record.json", b"new")
  assert victim.read_text() == "kept"
  assert not (tmp_path / "record.json").is_symlink()
  assert sorted(os.listdir(tmp_path)) == sorted([*names, "victim"])


@WRITERS
def test_full_disk_names_the_file_and_leaves_the_old_one(
  tmp_path, monkeypatch, write
):
  path = tmp_path / "record.json"
  path.write_text("old")

  def full(descriptor):
    raise OSError(errno.ENOSPC, "No space left on device")

  monkeypatch.setattr(os, "fsync", full)
  with pytest.raises(
    OSError, match=r"No space left on device: '.*record\.json"
  ):
    write(path, b"new")
  assert path.read_text() == "old"
  assert os.listdir(tmp_path) == ["record.json"]


def _give_up(path):
  with safe_files.replacing(path) as file:
    file.write(b"half")
    raise KeyboardInterrupt


def test_nothing_new_stays_when_writing_is_given_up(tmp_path):
  with pytest.raises(KeyboardInterrupt):
    _give_up(tmp_path / "model.safetensors")
  assert os.listdir(tmp_path) == []


def test_damaged_file_keeps_its_content_under_another_name(tmp_path, caplog):
  path = tmp_path / "record.json"
  for number in ("", "_2"):
    path.write_text(f"garbled{number}")
    new = safe_files.set_aside(path, "no JSON", "It is written anew.")
    assert new == f"{path}.damaged{number}"
    assert pathlib.Path(new).read_text() == f"garbled{number}"
    assert (
      f"{path} is damaged (no JSON); it is kept as {new}. It" in caplog.text
    )
  assert not path.exists()


def test_leftovers_of_a_killed_process_are_removed(tmp_path):
  for name in (
    ".record.json.x1_y.tmp",
    ".other.x1_y.tmp",
    "record.json",
    ".tmp",
  ):
    (tmp_path / name).touch()
  safe_files.remove_leftovers(tmp_path, {"record.json"}.__contains__)
  assert sorted(os.listdir(tmp_path)) == [
    ".other.x1_y.tmp",
    ".tmp",
    "record.json",
  ]


@WRITERS
def test_mode_is_that_of_any_new_file_and_no_thread_changes_it(
  tmp_path, monkeypatch, write
):
  """Setting a umask, to read it, sets that of all threads."""
  before = os.umask(0o027)
  try:
    with monkeypatch.context() as patch:
      patch.setattr(os, "umask", lambda mask: pytest.fail("It was set."))
      write(tmp_path / "new", b"")
  finally:
    os.umask(before)
  assert stat.S_IMODE((tmp_path / "new").stat().st_mode) == 0o640
