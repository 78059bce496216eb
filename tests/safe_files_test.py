"""Prompts and models are written as the runtime writes its files."""

import errno
import os
import stat

import pytest

from prompt_tuning import safe_files


def test_file_is_whole_or_the_old_one(tmp_path, monkeypatch):
  path = tmp_path / "prompt.npy"
  victim = tmp_path / "victim"
  victim.write_text("kept")
  for name in ("prompt.npy.tmp", ".prompt.npy.tmp", "prompt.npy"):
    (tmp_path / name).symlink_to(victim)
  safe_files.write(path, b"new")
  assert victim.read_text() == "kept"
  assert not path.is_symlink()

  def full(descriptor):
    raise OSError(errno.ENOSPC, "No space left on device")

  monkeypatch.setattr(os, "fsync", full)
  before = sorted(os.listdir(tmp_path))
  with pytest.raises(
    OSError, match=r"No space left on device: '.*prompt\.npy'"
  ):
    safe_files.write(path, b"newer")
  assert path.read_bytes() == b"new"
  assert sorted(os.listdir(tmp_path)) == before


def _give_up(path):
  with safe_files.replacing(path) as file:
    file.write(b"half")
    raise KeyboardInterrupt


def test_nothing_new_stays_when_writing_is_given_up(tmp_path):
  with pytest.raises(KeyboardInterrupt):
    _give_up(tmp_path / "model.safetensors")
  assert os.listdir(tmp_path) == []


def test_mode_is_that_of_any_new_file_and_no_thread_changes_it(
  tmp_path, monkeypatch
):
  """Setting a umask, to read it, sets that of all threads."""
  before = os.umask(0o027)
  try:
    with monkeypatch.context() as patch:
      patch.setattr(os, "umask", lambda mask: pytest.fail("It was set."))
      safe_files.write(tmp_path / "new", b"")
  finally:
    os.umask(before)
  assert stat.S_IMODE((tmp_path / "new").stat().st_mode) == 0o640
