"""Tests of a run's checkpoints: kept, damaged and set aside.

The last tests damage or lock the folder of a stopped run, which stays usable.
"""

import contextlib
import itertools
import os
import shutil
from unittest import mock

from damages import DAMAGES
from etils import epath
import jax
import jax.numpy as jnp
from jax.sharding import SingleDeviceSharding
import numpy as np
import pytest
import tiny

from t5x import checkpoints, optimizers, train_state
from t5x.files import digests, run_lock, storage
from t5x.formats import checkpoint_folder
from t5x.runs import resume


def _state(step):
  return train_state.TrainState(
    {"prompt": jnp.full(2, float(step))},
    {},
    optimizers.OptimizerState(jnp.int32(step), ()),
    None,
  )


def _open(folder, **overrides):
  return checkpoints.SaveBestCheckpointer(
    **{
      "train_state": _state(0),
      "partitioner": tiny.make_partitioner(),
      "checkpoints_dir": str(folder),
      "keep": 1,
      "metric_name_to_monitor": ".*/f1",
      **overrides,
    }
  )


def _save(checkpointer, evals, step=None):
  evals = [{"step": step, "score": score} for step, score in evals]
  checkpointer.save_run(_state(step or evals[-1]["step"]), {"evals": evals})
  checkpointer.wait()


def _kept(folder):
  return {name.removeprefix("checkpoint_") for name in os.listdir(folder)}


def _restore(folder):
  """Restores a run, checks its values and returns its step."""
  one = SingleDeviceSharding(jax.devices()[0])
  axes = jax.tree.map(lambda _: one, _state(0))
  with contextlib.closing(_open(folder)) as checkpointer:
    found = checkpointer.find_run()
    state, info = checkpointer.restore_run(axes)
  assert found == info
  step = int(state.step)
  np.testing.assert_array_equal(state.trainable["prompt"], np.full(2, step))
  assert info["evals"][-1]["step"] == step
  return step


@pytest.fixture(scope="module")
def two(tmp_path_factory):
  """A folder with the checkpoints of two steps."""
  folder = tmp_path_factory.mktemp("two")
  checkpointer = _open(folder)
  _save(checkpointer, [(10, 50.0)])
  _save(checkpointer, [(10, 50.0), (20, 60.0)])
  checkpointer.close()
  return folder


@pytest.fixture
def folder(two, tmp_path):
  """A copy of the folder with two checkpoints."""
  return shutil.copytree(two, tmp_path / "run")


@pytest.mark.parametrize(
  ("scores", "overrides", "kept"),
  [
    ([50, 90, 60, 40, 70], {}, {20, 50}),
    ([50, 90, 60, 40, 70], {"metric_mode": "min"}, {40, 50}),
    ([50, 49, 48], {"keep": None}, {10, 20, 30}),
    # Of equal scores, the earlier is the best.
    ([50, 50, 40], {}, {10, 30}),
    # The one before the newest is kept even if the newest is the best.
    ([51, 52, 53], {}, {20, 30}),
  ],
)
def test_best_and_newest_are_kept(tmp_path, scores, overrides, kept):
  """Keeps both even if the run stops after two saves and resumes."""
  evals = [(10 * i, float(x)) for i, x in enumerate(scores, 1)]
  for steps in (range(1, 3), range(3, len(evals) + 1)):
    checkpointer = _open(tmp_path, **overrides)
    for i in steps:
      _save(checkpointer, evals[:i])
    checkpointer.close()
  assert _kept(tmp_path) == set(map(str, kept))


@pytest.mark.parametrize("value", [float("nan"), float("inf"), None])
def test_score_that_chooses_nothing_is_refused(tmp_path, value):
  metrics = {"cb": {"accuracy": 1.0} if value is None else {"f1": value}}
  with pytest.raises(ValueError, match=r"'\.\*/f1' .*The metrics are cb/"):
    _open(tmp_path).score(metrics)


def test_to_keep_no_best_checkpoint_is_refused(tmp_path):
  with pytest.raises(ValueError, match=r"keep to be int above 0 .*, got 0"):
    _open(tmp_path, keep=0)


def test_damaged_newest_is_set_aside_for_the_one_before(two, tmp_path, caplog):
  """Damage to any file gives the newest state or a warning and the older."""
  newest = two / "checkpoint_20"
  files = sorted(path for path in newest.rglob("*") if path.is_file())
  assert len(files) >= len(DAMAGES)
  damages = itertools.cycle(DAMAGES.values())
  for i, (file, damage) in enumerate(zip(files, damages, strict=False)):
    folder = tmp_path / str(i)
    shutil.copytree(two, folder)
    damage(folder / file.relative_to(two))
    caplog.clear()
    step = _restore(folder)
    if file.parent == newest and file.name != digests.NAME:
      # Orbax's own files are not read.
      assert step == 20
      continue
    assert step == 10, file
    assert "checkpoint_20 is damaged (" in caplog.text
    # Damage to the digests may hit another file's name.
    assert file.name in caplog.text or file.name == digests.NAME
    assert "resumes from step 10" in caplog.text
    assert _kept(folder) == {"10", "20.damaged"}


def test_with_none_left_there_is_one_error_and_nothing_is_renamed(folder):
  files = [folder / f"checkpoint_{x}" / "run" / "metadata" for x in (10, 20)]
  files[0].write_text("{}")
  files[1].unlink()
  with pytest.raises(
    ValueError,
    match=r"Every checkpoint in .* is damaged: checkpoint_20: run/metadata is "
    "missing; checkpoint_10: the content of run/metadata has changed",
  ):
    _restore(folder)
  assert _kept(folder) == {"10", "20"}


def test_damaged_checkpoint_that_is_not_the_newest_is_not_read(folder):
  checkpointer = _open(folder)
  arrays, info = checkpointer.read_trained(10)
  np.testing.assert_array_equal(arrays["prompt"], [10.0, 10.0])
  assert info["evals"][-1]["step"] == 10
  (folder / "checkpoint_10" / "digests.json").write_text("")
  assert checkpointer.read_trained(10) is None
  assert checkpointer.read_trained(30) is None
  checkpointer.close()


def test_checkpoint_is_written_again_with_the_evaluation_that_was_due(tmp_path):
  checkpointer = _open(tmp_path)
  _save(checkpointer, [(10, 50.0)])
  for evals in ([(10, 50.0)], [(10, 50.0), (20, 60.0)]):
    _save(checkpointer, evals, step=20)
  checkpointer.close()
  assert _restore(tmp_path) == 20
  assert _kept(tmp_path) == {"10", "20"}


@pytest.mark.parametrize("step", [20, 21])  # The last evaluation is at 20.
def test_checkpoint_that_says_nothing_new_is_not_written_again(folder, step):
  """Saving a step again writes only if `is_stopped` has changed."""
  checkpointer = _open(folder)
  info, path = checkpointer.find_run(), folder / f"checkpoint_{step}"
  written = [path.stat().st_mtime_ns if path.exists() else None]
  for is_stopped in (False, False, True, True, False):
    checkpointer.save_run(_state(step), {**info, "is_stopped": is_stopped})
    checkpointer.wait()
    written.append(path.stat().st_mtime_ns)
  checkpointer.close()
  is_same = [old == new for old, new in itertools.pairwise(written)]
  assert is_same == [step == 20, True, False, True, False]


@pytest.mark.parametrize(
  "left",
  [
    # The run was killed while it wrote, deleted or replaced a checkpoint.
    "30.orbax-checkpoint-tmp",
    "10.deleted",
    "20.new.orbax-checkpoint-tmp",
    "20.new",
    "20.new and 20.deleted",
  ],
)
def test_what_a_killed_run_left_is_cleared_away(folder, left):
  name, _, old = left.partition(" and ")
  newest = folder / "checkpoint_20"
  shutil.copytree(newest, folder / f"checkpoint_{name}")
  if old:
    newest.rename(folder / f"checkpoint_{old}")
  assert _restore(folder) == 20
  assert _kept(folder) == {"10", "20"}


def test_run_in_a_bucket_begins_with_the_mark_of_its_first_checkpoint(
  tmp_path, monkeypatch
):
  """Without the mark, the folder counts as empty, so another run may use it."""
  monkeypatch.setattr(storage, "is_bucket", lambda path: True)
  saved = checkpoint_folder.CheckpointFolder(epath.Path(tmp_path))
  (tmp_path / "checkpoint_10" / "state").mkdir(parents=True)
  assert saved.is_empty()
  (tmp_path / "checkpoint_10" / storage.MARK).touch()
  assert not saved.is_empty()


def test_failed_write_says_why_and_leaves_the_old_checkpoints(
  folder, monkeypatch
):
  error = ValueError("PERMISSION_DENIED: no key [source='x.cc']")
  monkeypatch.setattr(digests, "write", mock.Mock(side_effect=error))
  checkpointer = _open(folder)
  with pytest.raises(OSError, match=r"run/checkpoint_30: .*may not .*log"):
    _save(checkpointer, [(30, 1.0)])
  checkpointer.close()
  assert _kept(folder) == {"10", "20"}


@pytest.mark.parametrize("own", [None, ValueError("the run's own")])
def test_error_of_a_run_says_more_than_that_of_closing(
  folder, monkeypatch, own
):
  """A connection lost on closing is raised only if the run had no error."""
  lost = OSError("Connection closed by peer")
  monkeypatch.setattr(digests, "write", mock.Mock(side_effect=lost))

  def run():
    with _open(folder) as checkpointer:
      checkpointer.save_run(_state(30), {"evals": []})
      if own is not None:
        raise own

  with pytest.raises(type(own or lost), match=str(own or "closed by peer")):
    run()


@pytest.mark.parametrize("fails", [False, True])
def test_run_that_lost_its_lock_deletes_nothing(folder, monkeypatch, fails):
  if fails:
    gone = mock.Mock(side_effect=OSError("gone"))
    monkeypatch.setattr(digests, "write", gone)
  checkpointer = _open(folder)
  checkpointer.save_run(_state(30), {"evals": [{"step": 30, "score": 1.0}]})
  checkpointer.check_lock = mock.Mock(side_effect=run_lock.LockLostError)
  # The other run is writing this checkpoint.
  (folder / "checkpoint_40.orbax-checkpoint-tmp").mkdir()
  with pytest.raises(run_lock.LockLostError):
    checkpointer.wait()
  checkpointer.close()
  assert _kept(folder) >= {"10", "20", "40.orbax-checkpoint-tmp"}


def test_seed_is_given_or_that_of_the_run_or_drawn(monkeypatch):
  monkeypatch.setattr(resume.secrets, "randbits", lambda bits: 9)
  for given, info, seed in (
    (None, None, 9),
    (None, {}, 9),
    (None, {"seed": 5}, 5),
    (0, {"seed": 5}, 0),
  ):
    assert resume.choose_seed(given, info, "seed") == seed


LAST_STEP = tiny.BASE_STEP + 6


def _go_on(copy, base, run):
  """Resumes the copy and compares its prompt and record with the run's."""
  tiny.train_prompt(copy, base)
  tiny.assert_same_prompt(copy, run)
  for name in ("status", "evals", "best", "steps"):
    assert tiny.record(copy)[name] == tiny.record(run)[name]


def _lines(folder):
  return tiny.lines(folder / "metrics.jsonl")


@pytest.mark.slow
def test_best_prompt_is_written_again(run, base, copy, caplog):
  """A finished run writes its damaged prompt file again."""
  for damage in ("cut off", "a bit flipped", "deleted"):
    DAMAGES[damage](copy / "prompt.safetensors")
    caplog.clear()
    _go_on(copy, base, run)
    assert "It is written again from checkpoint_" in caplog.text


def test_damaged_newest_checkpoint_changes_no_result(run, base, copy, caplog):
  state = copy / f"checkpoint_{LAST_STEP}" / "state"
  files = [path for path in state.rglob("*") if path.is_file()]
  DAMAGES["a bit flipped"](max(files, key=lambda path: path.stat().st_size))
  with pytest.raises(ValueError, match="checkpoint_13 is damaged: the"):
    checkpoints.open_checkpoint(str(copy))
  _go_on(copy, base, run)
  assert f"checkpoint_{LAST_STEP} is damaged" in caplog.text
  assert (copy / f"checkpoint_{LAST_STEP}.damaged").is_dir()
  assert (copy / f"checkpoint_{LAST_STEP}").is_dir()
  steps = [[x["step"] for x in _lines(folder)] for folder in (copy, run)]
  assert steps[0] == steps[1]


@pytest.mark.slow
@pytest.mark.parametrize("content", ["", "{", "[]", "[" * 100_000])
def test_garbled_files_are_kept_aside_and_made_again(
  run, base, copy, content, caplog
):
  """The new record and metrics file have the evaluations of the old ones."""
  (copy / "record.json").write_text(content)
  (copy / "metrics.jsonl").write_text("\0\0\0\n7\n{\n")
  _go_on(copy, base, run)
  assert (copy / "record.json.damaged").read_text() == content
  assert "record.json is damaged" in caplog.text
  assert "metrics.jsonl is damaged (line 1" in caplog.text
  assert (copy / "metrics.jsonl.damaged").exists()
  evals = [
    [x for x in _lines(folder) if "inference_eval" in str(x)]
    for folder in (copy, run)
  ]
  assert evals[0] == evals[1] != []


@pytest.mark.parametrize(
  ("program", "macro"),
  [(tiny.train_prompt, "MODEL_DIR"), (tiny.evaluate, "EVAL_OUTPUT_DIR")],
)
def test_second_run_in_a_folder_is_refused(
  base, copy, monkeypatch, program, macro
):
  monkeypatch.setattr(run_lock, "HEARTBEAT_SECONDS", 0.2)
  before = sorted(os.listdir(copy))
  with (
    run_lock.RunLock(str(copy), macro),
    pytest.raises(
      ValueError, match=f"{macro}=.* is in use by another run: process"
    ),
  ):
    program(copy, base)
  assert sorted(os.listdir(copy)) == before
