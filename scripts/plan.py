"""Compiles a command for TPUs and GPUs that are not there, and says if it fits.

python scripts/plan.py --topology=v3:4x4 FLAGS...

FLAGS are those of any train, eval or infer command; checkpoints and data need
not be there. It prints what the programs take of each device, and a bound on
their time: no run is faster, and real ones are slower.
"""

import t5x.utils  # noqa: F401  Before what imports TensorFlow, to keep it quiet.

# isort: split

import collections
from collections.abc import Sequence
import dataclasses
import json
import sys

from absl import app, flags
import tqdm

from prompt_tuning.commands import plan as command
from t5x import gin_utils
from t5x.planning import programs, search, targets


def define_flags() -> None:
  """Defines the flags of this program, beside those of commands."""
  gin_utils.define_flags()
  flags.DEFINE_string(
    "topology", None, "v3:4x4, v5e:4x4, h100x8, a100x1, ...", required=True
  )
  flags.DEFINE_list(
    "programs", [], "Some of train, evaluate, infer and restore; all of them."
  )
  flags.DEFINE_bool("search", False, "Try settings; print the best that fit.")
  flags.DEFINE_integer("tries", 12, "Programs that --search compiles at most.")
  flags.DEFINE_integer(
    "minutes", 15, "After so many --search begins no other program."
  )
  flags.DEFINE_bool(
    "thorough",
    False,
    "Let TPUs' compiler make a run's effort: twice the time, the same memory.",
  )
  flags.DEFINE_bool("json", False, "Print what was measured as JSON lines.")


def main() -> None:
  """Runs the command line."""
  targets.prepare()
  define_flags()
  app.run(_main, argv=gin_utils.rewrite_gin_args(sys.argv))


def _main(argv: Sequence[str]) -> None:
  if len(argv) > 1:
    raise app.UsageError(f"Unexpected arguments: {' '.join(argv[1:])}")
  values = flags.FLAGS
  arguments = (values.topology, values.gin_file, values.gin_bindings)
  if values.search and (values.programs or values.json or values.thorough):
    raise app.UsageError(
      "--search compiles what it tries its own way: leave --programs, --json "
      "and --thorough out."
    )
  try:
    if values.search:
      _print_search(*arguments, values.tries, values.minutes)
      return
    left_open = programs.left_open(values.gin_file, values.gin_bindings)
    if "TASK_FEATURE_LENGTHS" in left_open:
      print(command.LENGTHS_NOTE, file=sys.stderr)
    for program, found in command.plan(
      *arguments, values.programs, values.thorough
    ):
      if values.json:
        print(json.dumps(dataclasses.asdict(found)), flush=True)
      else:
        print(command.describe(found, program.steps), flush=True)
  except ValueError as e:
    sys.exit(f"Error: {e}")


def _print_search(
  topology: str,
  gin_files: Sequence[str],
  bindings: Sequence[str],
  tries: int,
  minutes: int,
) -> None:
  target = targets.find(topology)
  number = len(search.candidates(len(target.devices), gin_files, bindings))
  trials = []
  with tqdm.tqdm(total=number, unit="setting") as bar:
    for trial in search.search(
      topology, gin_files, bindings, tries, 60 * minutes
    ):
      trials.append(trial)
      if trial.found:
        bar.write(command.tell(trial), file=sys.stderr)
      bar.update()
  reasons = collections.Counter(x.why for x in trials if x.why)
  for reason, times in reasons.items():
    print(f"Not compiled: {times} of {number} settings, as {reason}")
  chosen = search.best(trials)
  if not chosen:
    sys.exit(f"Nothing that was compiled fits {topology}: take more devices.")
  for i, trial in enumerate(chosen[:3], 1):
    assert trial.found is not None, "only compiled programs fit"
    print(f"\n{i}. {' '.join(map(_as_flag, trial.settings.bindings))}")
    print(command.describe(trial.found, None))


def _as_flag(binding: str) -> str:
  """Writes a binding as a flag for the shell."""
  name, value = binding.split(" = ")
  return f"--gin.{name}=" + (f'"{value}"' if "'" in value else value)


if __name__ == "__main__":
  main()
