"""Training runs that lose disk space, permission or their bucket."""

from collections.abc import Callable, Iterator, Mapping
import contextlib
import functools
import os
import pathlib
import stat
import subprocess
import time
import uuid

import bucket
from orbax.checkpoint._src.serialization import tensorstore_utils

from reliability_parts import cases, programs
from reliability_parts.programs import At, Bench
from t5x.files import storage

_NOBODY = 65534
_DISK_BYTES = "16m"
_STEP = programs.MOMENTS["step"]
_PLACES = (
  (_STEP, 1),
  (_STEP, 6),
  (programs.MOMENTS["evaluation"], 2),
  (programs.MOMENTS["saving"], 1),
  (programs.MOMENTS["deleting"], 2),
)
# The answer of a bucket's server, and the first requests that get it.
_ANSWERS = {
  "503": (bucket.Refusal(503, "overloaded"), (60, 120, 240)),
  "401": (bucket.Refusal(401, "who are you"), (60, 120)),
  "403": (bucket.Refusal(403, "no permission"), (60, 120, 240)),
  "cut": (bucket.Refusal(0, ""), (120,)),
  "slow": (None, (60,)),
}


def run(scratch: pathlib.Path, *, full: bool) -> Mapping[str, int | float]:
  """Counts failures, unclear messages, and runs that differ afterwards."""
  bench = Bench(scratch)
  with bucket.in_place_of_googles() as line, _small_disk(scratch) as disk:
    found: dict[str, Callable[[], cases.Counts]] = {
      f"{name}, {place} {number}": functools.partial(
        case, bench, disk, At(place, action, number)
      )
      for name, case, action in (
        ("full", _full, functools.partial(_fill, disk)),
        ("rights", _without_rights, functools.partial(_close, disk)),
      )
      for place, number in _PLACES
    } | {
      f"{name}, from request {first}": functools.partial(
        _bucket, bench, line, refusal, first
      )
      for name, (refusal, numbers) in _ANSWERS.items()
      for first in numbers
    }
    short = [x for x in found if x.startswith("rights")][3:4]
    return cases.count(scratch, found if full else {x: found[x] for x in short})


@contextlib.contextmanager
def _small_disk(scratch: pathlib.Path) -> Iterator[pathlib.Path]:
  """Mounts a small disk, if this user may; yields its folder."""
  folder = scratch / "disk"
  folder.mkdir(exist_ok=True)
  size = f"size={_DISK_BYTES},mode=777"
  mount = ["mount", "-t", "tmpfs", "-o", size, "none", str(folder)]
  is_mounted = not os.getuid() and not subprocess.run(mount).returncode
  try:
    yield folder
  finally:
    if is_mounted:
      subprocess.run(["umount", str(folder)], check=True)


def _fill(disk: pathlib.Path) -> None:
  with contextlib.suppress(OSError), (disk / "filler").open("wb") as file:
    while True:
      file.write(bytes(4096))
      file.flush()


def _close(disk: pathlib.Path) -> None:
  for folder in disk.iterdir():
    folder.chmod(0o555)


def _full(bench: Bench, disk: pathlib.Path, at: At) -> cases.Counts:
  if not os.path.ismount(disk):
    return {"not_possible": 1}  # This user may not mount a disk.
  make = functools.partial(programs.training, base=bench.base)
  record = disk / "run" / "record.json"
  statuses = []

  def mend() -> None:
    statuses.append('"status": "failed"' in record.read_text())
    (disk / "filler").unlink()

  (ending,), counts = bench.disturbed(
    str(disk / "run"), "normal", make, [at], mend
  )
  is_clear = ending.is_clear(str(disk), "No space left", "Free some space")
  return counts | {
    "failures": 1,
    "unclear": int(not all([is_clear, *statuses])),
  }


def _without_rights(bench: Bench, disk: pathlib.Path, at: At) -> cases.Counts:
  user = None if os.getuid() else _NOBODY
  is_open = all(x.stat().st_mode & stat.S_IXOTH for x in disk.parents)
  if user and not is_open:
    return {"not_possible": 1}  # The other user may not read this folder.
  make = functools.partial(programs.training, base=bench.base, user=user)

  def mend() -> None:
    (disk / "run").chmod(0o755)

  (ending,), counts = bench.disturbed(
    str(disk / "run"), "normal", make, [at], mend
  )
  is_clear = ending.is_clear(str(disk), "Permission denied", "Allow")
  return counts | {"failures": 1, "unclear": int(not is_clear)}


def _impatient() -> None:
  """Makes the libraries give up a server after seconds instead of minutes."""
  from t5x.files import gcs_file_system

  gcs_file_system.PATIENCE_SECONDS = 2.0
  for context in (
    tensorstore_utils._BASE_TS_CONTEXT,
    tensorstore_utils._DEFAULT_OCDBT_TS_CONTEXT,
  ):
    context["gcs_request_retries"] = {"max_retries": 3, "max_delay": "1s"}


def _bucket(
  bench: Bench, line: bucket.Line, refusal: bucket.Refusal | None, first: int
) -> cases.Counts:
  make = functools.partial(programs.training, base=bench.base)
  start = line.count

  def refuse(method: str, path: str) -> bucket.Refusal | None:
    del method, path
    if line.count - start < first:
      return None
    if refusal is None:
      time.sleep(0.2)
    return refusal

  line.refuse = refuse

  def mend() -> None:
    line.refuse = lambda method, path: None

  impatient = At("t5x.runs.records:locked_folder", _impatient)
  folder = f"gs://{bucket.BUCKET}/{uuid.uuid4().hex}"
  (ending,), counts = bench.disturbed(folder, "normal", make, [impatient], mend)
  storage.remove(folder)
  if refusal is None:
    return counts | {"slow_runs": 1, "unclear": int(ending.status != 0)}
  is_clear = ending.is_clear(folder)
  return counts | {"failures": 1, "unclear": int(not is_clear)}
