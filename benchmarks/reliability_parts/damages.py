"""Damaged files, which must not change results silently."""

from collections.abc import Callable, Mapping
import functools
import itertools
import pathlib
import shutil
from typing import Any

from damages import DAMAGES

from prompt_tuning.tuning_jobs import jobs
from prompt_tuning.tuning_jobs.job_store import JobStore
from reliability_parts import cases, programs
from reliability_parts.programs import At, Bench, Command

_SAVING = programs.MOMENTS["saving"]


def run(scratch: pathlib.Path, *, full: bool) -> Mapping[str, int | float]:
  """Counts damages, changed results, and messages that name no file."""
  bench, whole = Bench(scratch), scratch / "whole"
  train = functools.partial(programs.training, base=bench.base)
  kinds: dict[str, tuple[pathlib.Path, Callable[..., Command]]] = {
    # The run was killed before its third checkpoint.
    "run": (whole / "run", train),
    "base": (whole / "base", functools.partial(_evaluate, whole)),
    "prompt": (whole / "prompt", functools.partial(_evaluate, whole)),
  }
  if not whole.exists():
    done, base = bench.undisturbed("normal", train), pathlib.Path(bench.base)
    made = scratch / "made"
    shutil.rmtree(made, ignore_errors=True)  # From a part that was stopped.
    shutil.copytree(base, made / "base" / base.name)
    (made / "prompt").mkdir()
    shutil.copy(done / "prompt.safetensors", made / "prompt")
    (made / "run").mkdir()
    train(str(made / "run")).run(scratch, At(_SAVING, programs.kill, 3))
    _fill(JobStore(made / "jobs"))
    made.rename(whole)
  found: dict[str, Callable[[], cases.Counts]] = {}
  for kind, (folder, make) in kinds.items():
    for file, damage in itertools.product(_files(folder), DAMAGES):
      found[f"{kind}, {file}, {damage}"] = functools.partial(
        _case, bench, whole, kind, file, damage, make
      )
  for file, damage in itertools.product(_files(whole / "jobs"), DAMAGES):
    found[f"jobs, {file}, {damage}"] = functools.partial(
      _jobs, scratch, whole / "jobs", file, damage
    )
  short = dict(itertools.islice(found.items(), 5, None, 120))
  return cases.count(scratch, found if full else short)


def _files(folder: pathlib.Path) -> list[str]:
  paths = (x for x in folder.rglob("*") if x.is_file())
  names = (str(x.relative_to(folder)) for x in paths)
  return sorted(x for x in names if not x.startswith("run.lock"))


def _evaluate(whole: pathlib.Path, folder: str) -> Command:
  """Evaluates the copies beside a folder, or the undamaged files themselves."""
  beside = pathlib.Path(folder).parent
  base, prompt = (
    beside / x if (beside / x).exists() else whole / x
    for x in ("base", "prompt")
  )
  return programs.command(
    "eval",
    ["prompts/from_file", "runs/eval"],
    INITIAL_CHECKPOINT_PATH=str(base),
    PROMPT_FILE=str(prompt / "prompt.safetensors"),
    EVAL_OUTPUT_DIR=folder,
  )


def _case(
  bench: Bench,
  whole: pathlib.Path,
  kind: str,
  file: str,
  damage: str,
  make: Callable[..., Command],
) -> cases.Counts:
  """Damages a file, and runs the command that reads it."""
  is_run = kind == "run"
  expected = bench.undisturbed("normal" if is_run else "eval", make)
  copy = bench.scratch / "copy"
  shutil.rmtree(copy, ignore_errors=True)
  shutil.copytree(whole / kind, copy / kind)
  DAMAGES[damage](copy / kind / file)
  folder = copy / ("run" if is_run else "out")
  folder.mkdir(exist_ok=True)
  (ending,) = make(str(folder)).run(bench.scratch)
  is_named = names(file, ending.output)
  found: list[str] = []
  if not ending.status:
    found = programs.differences(str(folder), programs.result(str(expected)))
  # Predictions and scores of earlier steps, on which nothing else depends.
  is_left = found == [file] and not is_named
  return {
    "outputs_left_damaged": int(is_left),
    **_counted(bool(found) and not is_left, ending.status != 0, is_named),
  }


def names(file: str, output: str) -> bool:
  """Returns whether an output has the name of a file or its checkpoint."""
  path = pathlib.PurePath(file)
  return any(x in output for x in (path.name, path.parts[0]))


def _counted(changed: bool, refused: bool, is_named: bool) -> cases.Counts:
  return {
    "damages": 1,
    "refused": int(refused),
    "changed_unseen": int(changed and not is_named),
    "changed_with_a_warning": int(changed and is_named),
    "unnamed": int(refused and not is_named),
  }


def _fill(store: JobStore) -> None:
  file = store.add_file("pairs", b'{"prompt": "a", "completion": "b"}\n')
  store.add_job(file.id, None, "mine", jobs.Settings())


def _contents(store: JobStore) -> list[Any]:
  files = store.files()
  return [store.jobs(), files, [store.content(x.id) for x in files]]


def _jobs(
  scratch: pathlib.Path, whole: pathlib.Path, file: str, damage: str
) -> cases.Counts:
  """Damages a file of a job store, and reads the store."""
  copy = scratch / "copy"
  shutil.rmtree(copy, ignore_errors=True)
  shutil.copytree(whole, copy)
  DAMAGES[damage](copy / file)
  try:
    changed = _contents(JobStore(copy)) != _contents(JobStore(whole))
  except Exception as error:
    # The server's clients see the id of a data set, but no paths.
    name = pathlib.PurePath(file).name.removesuffix(".jsonl")
    return _counted(False, True, name in str(error))
  return _counted(changed, False, False)
