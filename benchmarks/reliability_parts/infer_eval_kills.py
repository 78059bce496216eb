"""Inferences and evaluations that SIGKILL ends, and that are started again."""

from collections.abc import Mapping
import functools
import itertools
import pathlib

import bucket

from reliability_parts import cases, programs
from reliability_parts.programs import At, Bench, Command

_RESTORE = "t5x.runs.plan:FrozenPlan.restore"
_COMPILE = programs.MOMENTS["compiling"]
_RECORD = "t5x.runs.records:RunRecord.write"
_CHUNK = "t5x.files.safe_files:PartialFile.write"
# Program -> the calls at which it is killed.
_CALLS = {
  "infer": (
    *((_RESTORE, 1), (_COMPILE, 1), (_RECORD, 1), (_CHUNK, 1), (_CHUNK, 2)),
    *((_CHUNK, 3), ("t5x.files.safe_files:PartialFile.finish", 1)),
  ),
  "eval": ((_RESTORE, 1), (programs.MOMENTS["evaluation"], 1), (_RECORD, 2)),
}


def run(scratch: pathlib.Path, *, full: bool) -> Mapping[str, int | float]:
  """Counts kills, and the results that differ afterwards."""
  bench = Bench(scratch)
  train = functools.partial(programs.training, base=bench.base)
  prompt = bench.undisturbed("normal", train) / "prompt.safetensors"
  with bucket.in_place_of_googles():
    found = {
      f"{program}, {at}, {number}, {place}": functools.partial(
        _case, bench, prompt, place, program, at, number
      )
      for place, program in itertools.product(bench.places, _CALLS)
      for at, number in _CALLS[program]
    }
    return cases.count(scratch, found if full else dict([found.popitem()]))


def _make(
  folder: str, base: str, prompt: pathlib.Path, program: str
) -> Command:
  macros = {
    "infer": {
      "INFER_OUTPUT_DIR": folder,
      "BATCH_SIZE": 4,
      "TASK_FEATURE_LENGTHS": {"inputs": 12, "targets": 5},
      "infer.checkpoint_period": 1,
    },
    "eval": {"EVAL_OUTPUT_DIR": folder},
  }
  return programs.command(
    program,
    ["prompts/from_file", f"runs/{program}"],
    INITIAL_CHECKPOINT_PATH=base,
    PROMPT_FILE=str(prompt),
    **macros[program],
  )


def _case(
  bench: Bench,
  prompt: pathlib.Path,
  place: str,
  program: str,
  at: str,
  number: int,
) -> dict[str, int]:
  make = functools.partial(
    _make, base=bench.base, prompt=prompt, program=program
  )
  kill = At(at, programs.kill, number)
  return bench.killed(place, program, make, kill)
