"""A Slurm of one node for tests, if slurm-wlm (Debian) is installed."""

from collections.abc import Iterator
import contextlib
import getpass
import os
import pathlib
import shutil
import socket
import subprocess
import tempfile
import time

import pytest
import started

# It has a {name} for each value that the test chooses.
_CONFIGURATION = (started.TESTS / "testdata" / "slurm.conf").read_text()
_DAEMONS = ("munged", "slurmctld", "slurmd")
_START_SECONDS = 30.0


@contextlib.contextmanager
def cluster() -> Iterator[None]:
  """Runs a cluster for Slurm's commands; skips if Slurm is not installed."""
  found = {
    name: shutil.which(name, path=f"{os.environ['PATH']}:/usr/sbin")
    for name in (*_DAEMONS, "sbatch")
  }
  if not all(found.values()):
    pytest.skip("no Slurm: apt-get install slurm-wlm")
  # A socket's path must be short.
  with tempfile.TemporaryDirectory(prefix="slurm_") as name:
    folder = pathlib.Path(name)
    _configure(folder)
    with contextlib.ExitStack() as stack:
      patch = stack.enter_context(pytest.MonkeyPatch.context())
      patch.setenv("SLURM_CONF", str(folder / "slurm.conf"))
      for daemon, arguments in (
        ("munged", _munged(folder)),
        ("slurmctld", ["-D"]),
        ("slurmd", ["-D"]),
      ):
        output = stack.enter_context((folder / "output").open("ab"))
        process = subprocess.Popen(
          [found[daemon], *arguments], stdout=output, stderr=output
        )
        stack.callback(process.wait)
        stack.callback(process.terminate)
        if daemon == "munged":
          _wait(folder, (folder / "munge.socket").exists)
      _wait(folder, _is_idle)
      stack.callback(_cancel_all, folder)
      yield


def _configure(folder: pathlib.Path) -> None:
  (folder / "state").mkdir()
  (folder / "spool").mkdir()
  key = folder / "munge.key"
  key.write_bytes(os.urandom(128))
  key.chmod(0o400)
  (folder / "cgroup.conf").write_text("CgroupPlugin=disabled\n")
  (folder / "slurm.conf").write_text(
    _CONFIGURATION.format(
      host=socket.gethostname().partition(".")[0],
      ports=[started.free_address().partition(":")[2] for _ in range(2)],
      folder=folder,
      user=getpass.getuser(),
    )
  )


def _munged(folder: pathlib.Path) -> list[str]:
  files = ("key-file", "socket", "pid-file", "log-file", "seed-file")
  places = [f"--{x}={folder}/munge.{x.partition('-')[0]}" for x in files]
  return ["--foreground", "--force", *places]


def _wait(folder: pathlib.Path, is_there) -> None:
  deadline = time.monotonic() + _START_SECONDS
  while not is_there():
    if time.monotonic() > deadline:
      output = (folder / "output").read_text(errors="replace")
      raise AssertionError(f"Slurm does not answer: {output[-2000:]}")
    time.sleep(0.1)


def _is_idle() -> bool:
  ask = ["sinfo", "--noheader", "--format=%T"]
  told = subprocess.run(ask, capture_output=True, text=True, check=False).stdout
  return told.strip() == "idle"


def _cancel_all(folder: pathlib.Path) -> None:
  subprocess.run(["scancel", f"--user={getpass.getuser()}"], check=True)
  _wait(folder, _is_idle)
