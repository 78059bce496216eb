"""A check that a reader reads its file or explains why it cannot.

Memory is the growth of the process up to its peak, counted in touched pages,
native libraries included. Only Linux reports it.
"""

from collections.abc import Iterator
import contextlib
import dataclasses
import os
import pathlib
import re
import tempfile
import time

from fuzz import (
  data_readers,
  experiments_readers,
  models_readers,
  mutations,
  server_readers,
  trainer_readers,
)
from fuzz.reader import Reader
import hypothesis
from hypothesis import configuration

# Every reader of bytes from outside, with a small good file for each.
READERS: dict[str, Reader] = {
  **trainer_readers.READERS,
  **models_readers.READERS,
  **data_readers.READERS,
  **server_readers.READERS,
  **experiments_readers.READERS,
}
SECONDS = 10.0
# Bytes beyond twice the file's size.
MEMORY = 100 * 2**20
# hypothesis would store data about the code in the working directory.
_HOME = tempfile.TemporaryDirectory(prefix="hypothesis_")
configuration.set_hypothesis_home_dir(_HOME.name)


@dataclasses.dataclass
class Counts:
  """The outcomes of the mutations of a reader's file.

  Attributes:
    mutations: The number of mutations.
    refused: Mutations that the reader refused with an error.
    unclean: Mutations that raised an unexpected error, or that needed too much
      memory or time.
    unnamed: Mutations whose error does not name the file.
    seconds: The longest time for one mutation.
    megabytes: The most memory for one mutation.
  """

  mutations: int = 0
  refused: int = 0
  unclean: int = 0
  unnamed: int = 0
  seconds: float = 0.0
  megabytes: float = 0.0


def _memory(name: str) -> int:
  """Returns VmRSS (current) or VmHWM (peak) of this process, in bytes."""
  with contextlib.suppress(OSError):
    status = pathlib.Path("/proc/self/status").read_text()
    return 1024 * int(re.findall(rf"{name}:\s*(\d+)", status)[0])
  return 0


def _forget_peak() -> int:
  with contextlib.suppress(OSError):
    pathlib.Path("/proc/self/clear_refs").write_text("5")
  return _memory("VmHWM")


@contextlib.contextmanager
def _kept(folder: pathlib.Path, is_changed: bool) -> Iterator[None]:
  """Restores the files of a folder at the end, if a reader changes them."""
  files = {}
  # SQLite may delete its temporary files at any time.
  for path in [x for x in folder.rglob("*") if is_changed and x.is_file()]:
    with contextlib.suppress(FileNotFoundError):
      files[path] = path.read_bytes()
  try:
    yield
  finally:
    if is_changed:
      for path in [x for x in folder.rglob("*") if x.is_file()]:
        if path not in files:
          path.unlink(missing_ok=True)
      for path, content in files.items():
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(content)


def check_one(
  reader: Reader, path: pathlib.Path, data: bytes, counts: Counts
) -> None:
  """Writes the data to the file, reads it, and counts the outcome.

  Raises:
    AssertionError: if the reader neither reads the file nor refuses it cleanly.
  """
  counts.mutations += 1
  path.write_bytes(data)
  before, start = _forget_peak(), time.monotonic()
  allowed = (ValueError, OSError, *reader.errors)
  error = None
  try:
    reader.read(path)
  except Exception as raised:
    error = raised
    counts.refused += 1
  seconds, used = time.monotonic() - start, _memory("VmHWM") - before
  counts.seconds = max(counts.seconds, seconds)
  counts.megabytes = max(counts.megabytes, used / 2**20)
  # Parsers raise subclasses of ValueError.
  is_own = type(error) is ValueError or not isinstance(error, ValueError)
  is_own |= bool(reader.errors) and isinstance(error, reader.errors)
  if error is not None and not (isinstance(error, allowed) and is_own):
    counts.unclean += 1
    raise AssertionError(f"{type(error).__name__} for {data[:200]}") from error
  if seconds > SECONDS or used > 2 * len(data) + MEMORY:
    counts.unclean += 1
    raise AssertionError(f"{seconds:.1f} s, {used} bytes for {data[:200]}")
  name = path.name if reader.called is None else reader.called
  if error is not None and name not in str(error):
    counts.unnamed += 1
    raise AssertionError(f"no file is named in: {error}") from error


def check(
  name: str, folder: pathlib.Path, examples: int, seed: int, counts: Counts
) -> None:
  """Mutates the file of a reader.

  Args:
    name: The reader's name in `READERS`.
    folder: An empty folder.
    examples: The number of mutations.
    seed: Their seed.
    counts: The counts to update.

  Raises:
    AssertionError: for a failure, with the smallest mutation that causes it.
  """
  reader = READERS[name]
  path = folder / reader.make(folder)
  good = path.read_bytes()
  with _kept(folder, reader.writes):
    reader.read(path)

  @hypothesis.seed(seed)
  @hypothesis.settings(
    max_examples=examples,
    database=None,
    deadline=None,
    suppress_health_check=list(hypothesis.HealthCheck),
  )
  @hypothesis.given(mutations.MUTATIONS)
  def each(edits: list[tuple[int, int, int, int]]) -> None:
    with _kept(folder, reader.writes):
      check_one(reader, path, mutations.mutated(good, edits), counts)

  each()


EXAMPLES = int(os.environ.get("FUZZ_EXAMPLES", "0"))
SEED = int(os.environ.get("FUZZ_SEED", "0"))
