"""Commands of `t5x` on a tiny model, which are disturbed while they run.

A command is `python -m t5x.train`, `t5x.eval` or `t5x.infer`, in a separate
process. A fork server has done the imports, so that it takes few seconds.
"""

from collections.abc import Callable, Mapping, Sequence
import contextlib
import dataclasses
import functools
import importlib
import json
import multiprocessing
import os
import pathlib
import runpy
import shutil
import signal
import sys
import threading
import time
from typing import Any
import uuid

import started
import tiny

import harness
from prompt_tuning import prompt_files
from reliability_parts import cases
from t5x import checkpoints
from t5x.files import storage
from t5x.formats import orbax, stored_arrays

_CONTEXT = multiprocessing.get_context("forkserver")
# Moment -> a function that is called at that moment.
MOMENTS = {
  "start-up": "t5x.runs.resume:restore",
  "compiling": "jax._src.compiler:compile_or_get_cached",
  "step": "t5x.runs.loop:Loop.report",
  "evaluation": "t5x.runs.evaluation:InferenceEvaluator.evaluate",
  "saving": "t5x.checkpoints:Checkpointer.save_run",
  "deleting": "t5x.formats.checkpoint_folder:CheckpointFolder.keep_only",
}


@dataclasses.dataclass(frozen=True)
class At:
  """Something to do in a process at a moment.

  Attributes:
    place: `module:name` of a function.
    action: Called without arguments, in the process.
    number: The call of the function at which to act, from 1.
    seconds: Delay after the start of that call.
    process: The index of the process to act in, if there are several.
  """

  place: str
  action: Callable[[], Any]
  number: int = 1
  seconds: float = 0.0
  process: int = 0

  def arm(self) -> None:
    """Makes the function at the place run the action."""
    module, _, path = self.place.partition(":")
    *parents, name = path.split(".")
    owner = functools.reduce(getattr, parents, importlib.import_module(module))
    function, calls = getattr(owner, name), []

    @functools.wraps(function)
    def call(*args, **kwargs):
      calls.append(1)
      if len(calls) == self.number and self.seconds:
        threading.Timer(self.seconds, self.action).start()
      elif len(calls) == self.number:
        self.action()
      return function(*args, **kwargs)

    setattr(owner, name, call)


def kill() -> None:
  """Kills this process."""
  os.kill(os.getpid(), signal.SIGKILL)


@dataclasses.dataclass(frozen=True)
class Ending:
  """The end of a process: its status, output, time and peak memory."""

  status: int
  output: str
  time: float
  peak_bytes: int

  def is_clear(self, *words: str) -> bool:
    """Returns whether one line reports the error with these words."""
    errors = [x for x in self.output.splitlines() if x.startswith("Error: ")]
    said = len(errors) == 1 and all(word in errors[0] for word in words)
    is_clear = self.status == 1 and said and "Traceback" not in self.output
    if not is_clear:
      print(f"\nStatus {self.status}, {words}: {self.output[-3000:]}")
    return is_clear


@dataclasses.dataclass(frozen=True)
class Command:
  """A command of `t5x`.

  Attributes:
    words: The words after `python -m`.
    processes: The number of processes that run it together.
    user: The user who runs it, if not this process's user.
    longest: The greatest number of seconds that it may take.
  """

  words: Sequence[str]
  processes: int = 1
  user: int | None = None
  longest: float = 300.0

  def run(self, scratch: pathlib.Path, *disturbances: At) -> list[Ending]:
    """Runs it with disturbances; `scratch` gets the output."""
    _CONTEXT.set_forkserver_preload(["t5x", __name__, "prompt_tuning.tasks"])
    address, running = started.free_address(), []
    for index in range(self.processes):
      flags = {
        "coordinator_address": address,
        "process_count": self.processes,
        "process_index": index,
      }
      several = [f"--{k}={x}" for k, x in flags.items()]
      words = [*self.words, *(several if self.processes > 1 else ())]
      file = scratch / f"output-{index}.txt"
      mine = [x for x in disturbances if x.process == index]
      kept = ("_EMULATOR_HOST", "_GCS_HTTP_URL", "_FOR_TESTING", "CACHE_HOME")
      environment = {k: x for k, x in os.environ.items() if k.endswith(kept)}
      arguments = (words, environment, str(file), mine, self.user)
      process: Any = _CONTEXT.Process(target=_main, args=arguments)
      process.start()
      running.append((process, file))
    deadline, times, peaks = time.monotonic() + self.longest, {}, {}
    while len(times) < len(running):
      now = time.monotonic()
      for process, _ in running:
        with contextlib.suppress(OSError, ValueError):  # It may have ended.
          peaks[process.pid] = harness.process_bytes("VmHWM", pid=process.pid)
        if not process.is_alive():
          times.setdefault(process.pid, now)
        elif now > deadline:
          process.kill()
      time.sleep(0.02)
    return [
      Ending(
        *(x.exitcode, file.read_text(errors="replace")),
        *(times[x.pid], peaks.get(x.pid, 0)),
      )
      for x, file in running
    ]


def _main(
  words: Sequence[str],
  environment: Mapping[str, str],
  output: str,
  disturbances: Sequence[At],
  user: int | None,
) -> None:
  """Runs the process of a command."""
  file = os.open(output, os.O_WRONLY | os.O_CREAT | os.O_TRUNC)
  os.dup2(file, 1)
  os.dup2(file, 2)
  os.environ |= environment
  if user is not None:
    os.setuid(user)
  for disturbance in disturbances:
    disturbance.arm()
  module, *sys.argv[1:] = words
  try:
    runpy.run_module(module, run_name="__main__", alter_sys=True)
  finally:
    import jax

    # As Python does at the end of a process that is not forked.
    jax.distributed.shutdown()


def command(
  program: str,
  files: Sequence[str],
  processes: int = 1,
  user: int | None = None,
  **macros: Any,
) -> Command:
  """Returns a command for the tiny model and its task.

  Args:
    program: "train", "eval" or "infer".
    files: The command's gin files, below `gin/`.
    processes: See `Command`.
    user: See `Command`.
    **macros: The command's bindings.
  """
  names = ["../tests/testdata/tiny", "methods/prompt_tuning", *files]
  bindings = {
    "MIXTURE_OR_TASK_NAME": "tiny_has_x",
    "MIXTURE_OR_TASK_MODULE": "tiny",
    "BATCH_SIZE": 8,
    "NUM_PARTITIONS": 1,
    **macros,
  }
  words = [f"t5x.{program}", *harness.gin_flags(names, bindings)]
  return Command(words, processes, user)


def training(folder: str, base: str, mode: str = "normal", **fields) -> Command:
  """Returns a run of six steps, evaluated and saved every two.

  Args:
    folder: The run's MODEL_DIR.
    base: The base model.
    mode: "normal", "by length" or "two processes".
    **fields: Fields of `Command`.
  """
  by_length = ["runs/by_length"] * (mode == "by length")
  return command(
    "train",
    ["prompts/random_uniform", "runs/train", *by_length],
    processes=2 if mode == "two processes" else 1,
    MODEL_DIR=folder,
    INITIAL_CHECKPOINT_PATH=base,
    TASK_FEATURE_LENGTHS={"inputs": 12, "targets": 5},
    PROMPT_LENGTH=4,
    TRAIN_STEPS_RELATIVE=6,
    EVAL_PERIOD=2,
    EVAL_STEPS=2,
    STATS_PERIOD=1,
    **fields,
  )


def _without_times(line: bytes) -> Any:
  """Returns a line's JSON object without times, or a damaged line itself."""
  try:
    fields = json.loads(line)
    return {k: v for k, v in fields.items() if "/timing/" not in k}
  except (ValueError, AttributeError):
    return line


def result(folder: str) -> dict[str, Any]:
  """Returns a run's files without times: equal runs have equal results."""
  path = storage.absolute(folder)
  record = json.loads((path / "record.json").read_text())
  kept = ("status", "step", "evals", "best")
  found: dict[str, Any] = {name: record.get(name) for name in kept}
  for name in storage.files(folder):
    if ".jsonl" in name:
      lines = (path / name).read_bytes().splitlines()
      found[name] = [_without_times(line) for line in lines]
  if record["kind"] == "train":
    prompt, header = prompt_files.load_prompt(path / "prompt.safetensors")
    found["prompt"] = prompt.tobytes(), header
    last = f"{checkpoints.find_checkpoint(folder)}/{orbax.ITEM}"
    for (name,), array in orbax.open_arrays(last).items():
      found[f"{storage.absolute(last).parent.name}/{name}"] = (
        stored_arrays.read(array).tobytes()
      )
  return found


def differences(folder: str, expected: Mapping[str, Any]) -> list[str]:
  """Returns the names in `result` whose values are not as expected."""
  try:
    found = result(folder)
  except (ValueError, OSError) as error:
    return [str(error)]
  names = {*found, *expected}
  return sorted(x for x in names if found.get(x) != expected.get(x))


class Bench:
  """A base model, and the results of undisturbed runs on it.

  Attributes:
    scratch: The folder of a part; its parent has the files that parts share.
    places: Name of a place for runs -> the start of its folders' paths.
    base: The base model.
  """

  def __init__(self, scratch: pathlib.Path):
    """Makes the base model."""
    self.scratch, self._shared = scratch, scratch.parent / cases.SHARED
    self.places = {
      "disk": f"{scratch}/killed/",
      "bucket": "gs://bucket/killed/",
    }
    self.base = str(self._shared / f"checkpoint_{tiny.BASE_STEP}")
    if not pathlib.Path(self.base).exists():
      tiny.save_base(self._shared)

  def undisturbed(
    self, name: str, make: Callable[..., Command]
  ) -> pathlib.Path:
    """Returns the result of the command that `make` makes for a folder."""
    folder = self._shared / name.replace(" ", "_")
    if not folder.exists():
      folder.mkdir()
      folder.chmod(0o777)  # A command may run as another user.
      (ending, *_) = make(str(folder)).run(self._shared)
      if ending.status:
        shutil.rmtree(folder)
        raise RuntimeError(ending.output)
    return folder

  def disturbed(
    self,
    folder: str,
    name: str,
    make: Callable[..., Command],
    disturbances: Sequence[At],
    mend: Callable[[], Any] = lambda: None,
  ) -> tuple[list[Ending], dict[str, int]]:
    """Runs a command, disturbs it, and runs it again.

    Args:
      folder: The folder that it writes to.
      name: The name of `undisturbed`.
      make: Makes the command for a folder.
      disturbances: The disturbances of its first run.
      mend: Called between the two runs.

    Returns:
      The endings of the first run, and `different`: 1 if the second run fails,
      or its result differs from an undisturbed run's.
    """
    expected = result(str(self.undisturbed(name, make)))
    output = self.scratch / "output"
    output.mkdir(exist_ok=True)
    # A stopped case may have left the folder.
    shutil.rmtree(folder, ignore_errors=True)
    first = make(folder).run(output, *disturbances)
    mend()
    again = make(folder).run(output)
    found = differences(folder, expected)
    if is_different := bool(found or any(x.status for x in again)):
      print(f"\n{folder}: {found}", *(x.output[-2000:] for x in again))
    elif not storage.is_bucket(folder):
      shutil.rmtree(folder)
    return first, {"different": int(is_different)}

  def killed(
    self, place: str, name: str, make: Callable[..., Command], at: At
  ) -> dict[str, int]:
    """Counts a kill, like `disturbed`, in a new folder of a place."""
    folder = self.places[place] + uuid.uuid4().hex
    endings, counts = self.disturbed(folder, name, make, [at])
    is_killed = endings[at.process].status == -signal.SIGKILL
    return counts | {"kills": int(is_killed), "not_killed": int(not is_killed)}
