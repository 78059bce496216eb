"""Tests of the imports between rooms (folders) of the library and trainer."""

import ast
import functools
import graphlib
import re

from documented import ROOT
import pytest

import prompt_tuning

# A room imports only from its own row and the rows above it.
LIBRARY = (
  ("types", "project_files", "cores"),
  ("prompts", "masks", "injections", "prompt_files"),
  ("methods",),
  ("models",),
  ("data",),
  ("mini",),
  ("tasks",),
  ("interop",),
  ("inference",),
  ("training",),
  ("experiments",),
  ("tuning_jobs",),
  ("serving",),
  ("commands",),
  ("__main__",),
)
TRAINER = (
  ("multihost", "losses", "decoding", "metrics", "partitioning"),
  ("files", "configuration"),
  ("formats", "input"),
  ("optimizers", "adafactor"),
  ("train_state",),
  ("models", "checkpoints", "gin_utils"),
  ("trainer", "utils"),
  ("by_length",),
  ("runs",),
  ("planning",),
  ("train", "eval", "infer"),
)
RANKS = {
  f"{package}.{room}": rank
  for package, rows in (("prompt_tuning", LIBRARY), ("t5x", TRAINER))
  for rank, row in enumerate(rows)
  for room in row
}
# These rooms run without the trainer.
WITHOUT_TRAINER = {room for row in LIBRARY[:5] for room in row}
# Rooms with tf.data.
TENSORFLOW = (
  "prompt_tuning/commands/",
  "prompt_tuning/data/",
  "prompt_tuning/mini/",
  "benchmarks/",
  "runtime/t5x/__init__.py",
  "runtime/t5x/input/",
  "runtime/t5x/runs/",
  "runtime/t5x/utils.py",
)
COMMANDS = ("prompt_tuning/commands/", "benchmarks/")
# A library or room -> the only places that import it.
ONLY = {
  "gin": ("runtime/t5x/configuration/", "runtime/t5x/gin_utils.py"),
  "tensorflow": TENSORFLOW,
  "tensorflow_datasets": TENSORFLOW,
  "tensorflow_text": TENSORFLOW,
  "prompt_tuning": ("prompt_tuning/", "benchmarks/"),
  "prompt_tuning.experiments": ("prompt_tuning/experiments/", *COMMANDS),
  "prompt_tuning.commands": ("prompt_tuning/__main__", *COMMANDS),
}
MODULES = sorted(
  str(path.relative_to(ROOT))
  for folder in ("prompt_tuning", "runtime/t5x", "benchmarks")
  for path in ROOT.glob(f"{folder}/**/*.py")
)
# "t5x.runs.x" -> "runtime/t5x/runs/x.py".
BY_DOTTED = {
  name.removeprefix("runtime/")
  .removesuffix(".py")
  .removesuffix("/__init__")
  .replace("/", "."): name
  for name in MODULES
}
# The package imports these on first use. `import prompt_tuning` may mean any.
LAZY = {f"prompt_tuning.{k}": x for k, x in prompt_tuning._LAZY.items()}
LAZY["prompt_tuning"] = "prompt_tuning.training.model"
MAX_FILE, MAX_FUNCTION = 400, 80


@functools.cache
def _tree(name):
  return ast.parse((ROOT / name).read_text())


@functools.cache
def _imports(name):
  """Returns the full names that a file imports."""
  names = set()
  for node in ast.walk(_tree(name)):
    if isinstance(node, ast.Import):
      names |= {alias.name for alias in node.names}
    elif isinstance(node, ast.ImportFrom):
      assert node.level == 0, "relative import"
      names |= {f"{node.module}.{alias.name}" for alias in node.names}
  return {LAZY.get(x, x) for x in names}


def _module(dotted):
  """Returns the module of this repository with that full name, or None."""
  while dotted and dotted not in BY_DOTTED:
    dotted = dotted.rpartition(".")[0]
  return dotted or None


@pytest.mark.parametrize("dotted", BY_DOTTED)
def test_imports(dotted):
  name, imports = BY_DOTTED[dotted], _imports(BY_DOTTED[dotted])
  roots = {x.partition(".")[0] for x in imports}
  rooms = {".".join(x.split(".")[:2]) for x in imports} & RANKS.keys()
  assert "@gin.configurable" not in (ROOT / name).read_text()
  for imported in ONLY.keys() & (roots | rooms):
    assert name.startswith(ONLY[imported]), imported
  assert not [
    x for x in imports if re.match(r"(prompt_tuning|t5x)\b.*\._[a-z]\w*$", x)
  ]
  # A room imports from the rows above.
  package, *inside = dotted.split(".")
  if inside and package != "benchmarks":
    own = f"{package}.{inside[0]}"
    assert own in RANKS, f"{name}: give it a row"
    same = {x for x in rooms if x.startswith(f"{package}.")}
    assert not {x for x in same if RANKS[x] > RANKS[own]}
    if package == "prompt_tuning" and inside[0] in WITHOUT_TRAINER:
      assert not {"t5x", "gin"} & roots


def test_no_module_imports_itself_in_a_circle():
  """Modules of one room count too, and so do `TYPE_CHECKING` imports."""
  graph = {
    dotted: {_module(x) for x in _imports(name)}
    # The package's own module defines its lazy attributes by name alone.
    - {None, dotted, "prompt_tuning", "t5x"}
    for dotted, name in BY_DOTTED.items()
  }
  graphlib.TopologicalSorter(graph).prepare()


@pytest.mark.parametrize("name", MODULES)
def test_files_and_functions_are_short(name):
  assert len((ROOT / name).read_text().splitlines()) <= MAX_FILE
  for node in ast.walk(_tree(name)):
    if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
      assert node.end_lineno - node.lineno < MAX_FUNCTION, node.name
