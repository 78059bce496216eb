"""Tests that files are whole or absent, wherever their writing is cut off.

Tests that need a bucket's server are in `bucket*_test`.
"""

import contextlib
import dataclasses
import errno
import itertools
import os
import pathlib
import stat
from unittest import mock

from damages import DAMAGES
import pytest

from prompt_tuning import project_files as whole_files
from t5x.files import failures, parsing, safe_files, storage
from t5x.runs import plan

# The runtime's writer, and the prompts' writer, which needs no runtime.
WRITERS = pytest.mark.parametrize(
  "write", [safe_files.write, whole_files.write]
)


@dataclasses.dataclass
class _Plan:
  model_dir: str


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
  full = OSError(errno.ENOSPC, "No space left on device")
  monkeypatch.setattr(os, "fsync", mock.Mock(side_effect=full))
  with pytest.raises(
    OSError, match=r"No space left .*record\.json|record\.json: No space left"
  ):
    write(path, b"new")
  assert path.read_text() == "old"
  assert os.listdir(tmp_path) == ["record.json"]


def test_run_names_its_folder_when_a_library_names_no_file(tmp_path):
  @plan.with_arguments_of(_Plan)
  def run(arguments):
    del arguments
    raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

  message = rf"{tmp_path}: No space left on device\. Free some space there, "
  with pytest.raises(failures.StoreError, match=message):
    run(model_dir=str(tmp_path))


def test_reserve_that_may_not_be_freed_hides_no_error(tmp_path, monkeypatch):
  reserve = safe_files.Reserve(str(tmp_path / "record.json"))
  denied = mock.Mock(side_effect=PermissionError(errno.EACCES, "denied"))
  monkeypatch.setattr(pathlib.Path, "unlink", denied)
  reserve.free()
  assert denied.called
  monkeypatch.undo()
  safe_files.remove_leftovers(tmp_path)
  assert os.listdir(tmp_path) == []


def test_nothing_new_stays_when_writing_is_given_up(tmp_path):
  with (
    contextlib.suppress(KeyboardInterrupt),
    safe_files.replacing(tmp_path / "model.safetensors") as file,
  ):
    file.write(b"half")
    raise KeyboardInterrupt
  assert os.listdir(tmp_path) == []


def test_damaged_file_keeps_its_content_under_another_name(tmp_path, caplog):
  path = tmp_path / "record.json"
  for number in ("", "_2"):
    path.write_text(f"garbled{number}")
    new = safe_files.set_aside(path, "no JSON", "A new one is written.")
    assert new == f"{path}.damaged{number}"
    assert pathlib.Path(new).read_text() == f"garbled{number}"
    assert f"{path} is damaged (no JSON); it is kept as {new}. A" in caplog.text
  assert not path.exists()


def test_leftovers_of_a_killed_process_are_removed(tmp_path):
  names = [".other.x1_y.tmp", ".tmp", "record.json"]
  for name in [*names, ".record.json.0123456789ab.tmp"]:
    (tmp_path / name).touch()
  safe_files.remove_leftovers(tmp_path)
  assert sorted(os.listdir(tmp_path)) == names


@WRITERS
def test_mode_is_that_of_any_new_file_and_no_thread_changes_it(
  tmp_path, monkeypatch, write
):
  """The umask is never set, not even to read it, as all threads share it."""
  before = os.umask(0o027)
  try:
    with monkeypatch.context() as patch:
      patch.setattr(os, "umask", lambda mask: pytest.fail("It was set."))
      write(tmp_path / "new", b"")
  finally:
    os.umask(before)
  assert stat.S_IMODE((tmp_path / "new").stat().st_mode) == 0o640


@pytest.mark.parametrize("of", [parsing.of, whole_files.parsing])
@pytest.mark.parametrize(
  ("error", "kind", "message"),
  [
    (RecursionError("depth"), ValueError, "x is not JSON: depth. Mend it."),
    (KeyError("a"), ValueError, "x is not JSON: it lacks 'a'. Mend it."),
    (TypeError(), ValueError, "x is not JSON: TypeError. Mend it."),
    (
      UnicodeDecodeError("utf-8", b"\n\xff", 1, 2, "no"),
      ValueError,
      "x is not JSON: line 2, the byte 0xff is not UTF-8. Mend it.",
    ),
    (
      OSError(errno.EINVAL, "no place"),
      ValueError,
      "x is not JSON: .* no place. Mend it.",
    ),
    # Errors that need no more words are left alone.
    (ValueError("x, line 3: no"), ValueError, "x, line 3: no"),
    (OSError(errno.EACCES, "no right", "x"), PermissionError, ".* right: 'x'"),
    (OSError(errno.EIO, "broken"), OSError, ".* broken: 'x'"),
    (OSError("a bucket's"), OSError, "a bucket's"),
  ],
)
def test_an_error_of_a_parser_gets_name_and_remedy(of, error, kind, message):
  message = message.replace("depth", "(depth|it is nested too deeply)")
  with (
    pytest.raises(kind, match=f"^{message}$") as found,
    of("x", "JSON", "Mend it."),
  ):
    raise error
  assert type(found.value) is kind


CHUNKS = [[f"line {i} of {n}\n" for i in range(4)] for n in range(3)]
WHOLE = "".join("".join(chunk) for chunk in CHUNKS)


def _write(path, stop_after=None):
  """Writes the missing chunks; returns how many lines the file had."""
  file = safe_files.PartialFile(str(path))
  there = file.num_lines
  for chunk in CHUNKS[there // 4 : stop_after]:
    file.write(chunk)
  if stop_after is None:
    file.finish()
  return there


@pytest.mark.parametrize(
  ("damage", "number"), [*itertools.product(DAMAGES, (0, 1)), (None, 2)]
)
def test_what_is_whole_is_kept_and_the_rest_written_again(
  tmp_path, damage, number
):
  path = tmp_path / "predictions"
  _write(path, stop_after=2)
  chunks = sorted((tmp_path / "predictions.partial").iterdir())
  # A process that was killed while it wrote leaves this.
  (tmp_path / "predictions.partial" / ".000000000008-1.tmp").write_text("line")
  if damage:
    DAMAGES[damage](chunks[number])
  assert _write(path) == 4 * number
  assert path.read_text() == WHOLE
  assert os.listdir(tmp_path) == ["predictions"]


OLD, NEW = "gs://bucket/checkpoint_1.new", "gs://bucket/checkpoint_1"


@pytest.mark.parametrize("name", ["runs", "a::b", "ü #[1]", "~x"])
def test_files_of_a_folder_are_found_whatever_its_name(tmp_path, name):
  (tmp_path / name / "below").mkdir(parents=True)
  for file in ("a", "below/b"):
    (tmp_path / name / file).touch()
  assert storage.files(tmp_path / name) == ["a", "below/b"]


@pytest.mark.parametrize(
  "marks",
  [
    [storage.MARK, "digests.json"],  # A run's checkpoint.
    ["digests.json"],  # A checkpoint copied from a disk.
    ["checkpoint"],  # A checkpoint in T5X's format 3.
  ],
)
def test_checkpoint_gets_its_marks_when_all_else_is_there(marks, monkeypatch):
  """No mark is copied early, as the process may be killed after any copy."""
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
