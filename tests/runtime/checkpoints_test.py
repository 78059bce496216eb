"""Which checkpoints of a run are kept, and what becomes of damaged ones."""

import contextlib
import errno
import itertools
import os
import shutil
from unittest import mock

from damages import DAMAGES
import jax
import jax.numpy as jnp
from jax.sharding import SingleDeviceSharding
import numpy as np
import pytest
import tiny

from t5x import checkpoints, optimizers, train_state
from t5x.files import digests, run_lock
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


def _restore_run(checkpointer):
  one = SingleDeviceSharding(jax.devices()[0])
  return checkpointer.restore_run(jax.tree.map(lambda _: one, _state(0)))


def _restore(folder):
  """The step that is restored; its values must be those that were saved."""
  with contextlib.closing(_open(folder)) as checkpointer:
    state, info = _restore_run(checkpointer)
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
  """A copy of it."""
  return shutil.copytree(two, tmp_path / "run")


@pytest.mark.parametrize(
  ("scores", "overrides", "kept"),
  [
    ([50, 90, 60, 40, 70], {}, {20, 50}),
    ([50, 90, 60, 40, 70], {"metric_mode": "min"}, {40, 50}),
    ([50, 49, 48], {"keep": None}, {10, 20, 30}),
    # Of equals, the earlier is the best.
    ([50, 50, 40], {}, {10, 30}),
    # There is one before the newest, even if that is the best.
    ([51, 52, 53], {}, {20, 30}),
  ],
)
def test_best_and_newest_are_kept(tmp_path, scores, overrides, kept):
  """Also of a run that was stopped meanwhile."""
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


def test_damaged_newest_is_set_aside_for_the_one_before(two, tmp_path, caplog):
  """Any file of it: the state is the newest's or, with a word, the older's."""
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
      # Orbax's own, which are not read.
      assert step == 20
      continue
    assert step == 10, file
    assert "checkpoint_20 is damaged (" in caplog.text
    # Of the digests, a name of another file may be hit.
    assert file.name in caplog.text or file.name == digests.NAME
    assert "resumes from step 10" in caplog.text
    assert _kept(folder) == {"10", "20.damaged"}


def test_what_is_wrong_is_named(folder):
  newest = folder / "checkpoint_20"
  assert digests.damage(newest) is None
  (newest / "run" / "metadata").unlink()
  assert digests.damage(newest) == "run/metadata is missing"


def test_with_none_left_there_is_one_error_and_nothing_is_renamed(folder):
  for step in (10, 20):
    (folder / f"checkpoint_{step}" / "run" / "metadata").write_text("{}")
  with pytest.raises(
    ValueError, match=r"Every checkpoint in .* is damaged: ch"
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


def test_checkpoint_that_says_nothing_new_is_not_written_again(folder):
  """As where the run that is restored goes on, unless it had stopped there."""
  checkpointer = _open(folder)
  _, info = _restore_run(checkpointer)
  written = [(folder / "checkpoint_20").stat().st_mtime_ns]
  for is_stopped in (False, True, True, False):
    checkpointer.save_run(_state(20), {**info, "is_stopped": is_stopped})
    checkpointer.wait()
    written.append((folder / "checkpoint_20").stat().st_mtime_ns)
  checkpointer.close()
  is_same = [old == new for old, new in itertools.pairwise(written)]
  assert is_same == [True, False, True, False]


@pytest.mark.parametrize(
  ("name", "is_copy", "is_last"),
  [
    # Killed while it wrote, deleted, or replaced a checkpoint.
    ("checkpoint_30.orbax-checkpoint-tmp", False, False),
    ("checkpoint_10.deleted", False, False),
    ("checkpoint_20.new.orbax-checkpoint-tmp", False, False),
    ("checkpoint_20.new", True, False),
    ("checkpoint_20.new", True, True),
  ],
)
def test_what_a_killed_run_left_is_cleared_away(folder, name, is_copy, is_last):
  newest = folder / "checkpoint_20"
  if is_copy:
    shutil.copytree(newest, folder / name)
  else:
    (folder / name).mkdir()
  if is_last:
    newest.rename(folder / "checkpoint_20.deleted")
  assert _restore(folder) == 20
  assert _kept(folder) == {"10", "20"}


@pytest.mark.parametrize(
  ("error", "message"),
  [
    (OSError(errno.ENOSPC, os.strerror(errno.ENOSPC)), "No space left"),
    (
      ValueError("UNKNOWN: [OS error 122: Disk quota exceeded]"),
      "quota exceed",
    ),
    (
      ValueError("PERMISSION_DENIED: no key [source='x.cc']"),
      "DENIED: no key:",
    ),
  ],
)
def test_failed_write_says_why_and_leaves_the_old_checkpoints(
  folder, monkeypatch, error, message
):
  monkeypatch.setattr(digests, "write", mock.Mock(side_effect=error))
  checkpointer = _open(folder)
  with pytest.raises(OSError, match=rf"{message}.*run/checkpoint_30'"):
    _save(checkpointer, [(30, 1.0)])
  checkpointer.close()
  assert _kept(folder) == {"10", "20"}


@pytest.mark.parametrize("fails", [False, True])
def test_run_that_lost_its_lock_deletes_nothing(folder, monkeypatch, fails):
  if fails:
    gone = mock.Mock(side_effect=OSError("gone"))
    monkeypatch.setattr(digests, "write", gone)
  checkpointer = _open(folder)
  checkpointer.save_run(_state(30), {"evals": [{"step": 30, "score": 1.0}]})
  checkpointer.check_lock = mock.Mock(side_effect=run_lock.LockLostError)
  # What the other run is writing.
  (folder / "checkpoint_40.orbax-checkpoint-tmp").mkdir()
  with pytest.raises(run_lock.LockLostError):
    checkpointer.wait()
  checkpointer.close()
  assert _kept(folder) >= {"10", "20", "40.orbax-checkpoint-tmp"}


def test_seeds_are_given_or_of_the_newest_whole_checkpoint_or_drawn(
  tmp_path, monkeypatch
):
  monkeypatch.setattr(resume.secrets, "randbits", lambda bits: 9)
  checkpointer = _open(tmp_path)

  def seeds(given=None, of_order=None):
    info = checkpointer.find_run()
    return (
      resume.choose_seed(given, info, "seed"),
      resume.choose_seed(of_order, info, "shuffle_seed"),
    )

  assert seeds() == (9, 9)
  for step in (10, 20):
    info = {"evals": [], "seed": step, "shuffle_seed": step + 1}
    checkpointer.save_run(_state(step), info)
    checkpointer.wait()
    assert seeds() == (step, step + 1)
  assert seeds(0, 1) == (0, 1)
  DAMAGES["a bit flipped"](tmp_path / "checkpoint_20" / "run" / "metadata")
  assert seeds(of_order=1) == (10, 1)
  checkpointer.close()
