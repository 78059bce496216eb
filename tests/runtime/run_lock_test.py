"""Tests that only one run holds a folder's lock, and no dead process does."""

import os
import socket
import subprocess
import sys

import pytest
from started import LOCK_ELSEWHERE

from t5x.files import run_lock

# Holds a lock until it is killed.
_HOLD = """
import sys, time
from t5x.files import run_lock
with run_lock.RunLock(sys.argv[1], "MODEL_DIR"):
  print("held", flush=True)
  time.sleep(600)
"""


@pytest.fixture(autouse=True)
def _short(monkeypatch):
  monkeypatch.setattr(run_lock, "HEARTBEAT_SECONDS", 0.2)
  monkeypatch.setattr(run_lock, "LEASE_SECONDS", 1.0)


def test_second_run_is_told_who_holds_the_folder(tmp_path):
  assert run_lock.find_holder(str(tmp_path)) is None
  with run_lock.RunLock(str(tmp_path), "MODEL_DIR"):
    # The holder is this process itself.
    assert run_lock.find_holder(str(tmp_path)) is None
    with (
      pytest.raises(
        ValueError,
        match=rf"MODEL_DIR='.*' is in use .*process {os.getpid()} on .* since ",
      ) as raised,
      run_lock.RunLock(str(tmp_path), "MODEL_DIR"),
    ):
      pass
    # A worker tries its job again if it finds this cause.
    assert isinstance(raised.value.__cause__, OSError)
    # Another part of the folder is free.
    with run_lock.RunLock(str(tmp_path), "OUTPUT_DIR", "part-1"):
      pass
  assert os.listdir(tmp_path) == []
  with run_lock.RunLock(str(tmp_path), "MODEL_DIR"):
    pass


def test_lock_of_a_killed_process_is_taken_at_once(tmp_path):
  process = subprocess.Popen(
    [sys.executable, "-c", _HOLD, str(tmp_path)], stdout=subprocess.PIPE
  )
  assert process.stdout is not None
  assert process.stdout.readline() == b"held\n"
  holder = run_lock.find_holder(str(tmp_path))
  assert holder is not None
  assert holder.startswith(f"process {process.pid} on ")
  process.kill()
  process.wait()
  process.stdout.close()
  assert (tmp_path / "run.lock").exists()
  assert run_lock.find_holder(str(tmp_path)) is None
  with run_lock.RunLock(str(tmp_path), "MODEL_DIR") as lock:
    lock.check()
  assert os.listdir(tmp_path) == []


def test_lock_of_another_machine_is_taken_when_nobody_touches_it(
  tmp_path, caplog
):
  (tmp_path / "run.lock").write_text(LOCK_ELSEWHERE)
  assert run_lock.find_holder(str(tmp_path)) == "process 5 on elsewhere"
  with run_lock.RunLock(str(tmp_path), "MODEL_DIR"):
    pass
  assert caplog.text.count("is locked by process 5 on elsewhere") == 1


def test_process_of_another_container_may_have_the_same_number(tmp_path):
  """Containers of a pod share a host name and may share process numbers."""
  ours = LOCK_ELSEWHERE.replace("pid=5", f"pid={os.getpid()}")
  for name, suffix in ("elsewhere", ""), (socket.gethostname(), "?pidns-f01"):
    text = ours.replace("elsewhere", name + suffix)
    (tmp_path / "run.lock").write_text(text)
    holder = run_lock.find_holder(str(tmp_path))
    assert holder == f"process {os.getpid()} on {name}"


def test_run_that_lost_its_lock_stops_before_it_writes(tmp_path):
  with run_lock.RunLock(str(tmp_path), "MODEL_DIR") as lock:
    lock.check()
    (tmp_path / "run.lock").unlink()
    (tmp_path / "run.lock").write_text(LOCK_ELSEWHERE)
    with pytest.raises(
      run_lock.LockLostError, match=r"another run while .* 5 on elsew"
    ):
      # The check needs no thread, which may have been suspended too.
      lock.check()
  # The lock is the other run's now.
  assert (tmp_path / "run.lock").read_text() == LOCK_ELSEWHERE


def test_run_that_cannot_write_its_lock_does_not_name_itself(tmp_path):
  with run_lock.RunLock(str(tmp_path), "MODEL_DIR") as lock:
    lock._note_loss("refresh-failed")
    with pytest.raises(run_lock.LockLostError, match="could not be written"):
      lock.check()
