"""The rooms of the library and of the trainer, and the imports between them."""

import ast
import functools
import pathlib
import re

import pytest

import prompt_tuning

ROOT = pathlib.Path(__file__).parents[1]
# A room imports only from its own row and the rows above it.
LIBRARY = (
  ("types", "project_files"),
  ("prompts", "masks", "injections", "prompt_files"),
  ("methods",),
  ("models",),
  ("data",),
  ("mini",),
  ("tasks",),
  ("inference",),
  ("training",),
  ("interop",),
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
READ_GIN = ("runtime/t5x/configuration/", "runtime/t5x/gin_utils.py")
IMPORT_EXPERIMENTS = (
  "prompt_tuning/experiments/",
  "prompt_tuning/commands/",
  "benchmarks/",
)
MODULES = sorted(
  str(path.relative_to(ROOT))
  for folder in ("prompt_tuning", "runtime/t5x", "benchmarks")
  for path in ROOT.glob(f"{folder}/**/*.py")
)
MAX_FILE, MAX_FUNCTION = 400, 80


def _dotted(name):
  """Maps "runtime/t5x/runs/x.py" to "t5x.runs.x"."""
  name = name.removeprefix("runtime/").removesuffix(".py")
  return name.replace("/", ".").removesuffix(".__init__")


BY_DOTTED = {_dotted(name): name for name in MODULES}


@functools.cache
def _tree(name):
  return ast.parse((ROOT / name).read_text())


def _names(tree):
  """Yields the full names that a module imports or reads off the package.

  The package's lazy attributes count as the modules that define them, so
  `from prompt_tuning import load` and `prompt_tuning.load` import `training`.
  """
  packages = set()
  for node in ast.walk(tree):
    if isinstance(node, ast.Import):
      for alias in node.names:
        yield alias.name
        if alias.name == "prompt_tuning":
          packages.add(alias.asname or alias.name)
    elif isinstance(node, ast.ImportFrom):
      assert node.level == 0, "relative import"
      for alias in node.names:
        yield f"{node.module}.{alias.name}"
  for node in ast.walk(tree):
    if (
      isinstance(node, ast.Attribute)
      and isinstance(node.value, ast.Name)
      and node.value.id in packages
    ):
      yield f"prompt_tuning.{node.attr}"


@functools.cache
def _imports(name):
  """Returns the full names that a file imports."""
  lazy = prompt_tuning._LAZY
  return {
    f"{lazy[own]}.{x.rpartition('.')[2]}"
    if (own := x.removeprefix("prompt_tuning.")) in lazy
    else x
    for x in _names(_tree(name))
  }


def _room(dotted):
  """Returns "package.room" of "package.room.module", or None."""
  room = ".".join(dotted.split(".")[:2])
  return room if room in RANKS else None


def _module(dotted):
  """Returns the module of this repository that a full name is in, or None."""
  while dotted and dotted not in BY_DOTTED:
    dotted = dotted.rpartition(".")[0]
  return dotted or None


def _roots(names):
  return {name.partition(".")[0] for name in names}


@pytest.mark.parametrize("name", MODULES)
def test_imports(name):
  imports = _imports(name)
  roots = _roots(imports)
  assert "@gin.configurable" not in (ROOT / name).read_text()
  if "gin" in roots:
    assert name.startswith(READ_GIN)
  if name.startswith("runtime/"):
    assert "prompt_tuning" not in roots
  if {"tensorflow", "tensorflow_datasets", "tensorflow_text"} & roots:
    assert name.startswith(TENSORFLOW)
  rooms = {_room(x) for x in imports} - {None}
  if not name.startswith(IMPORT_EXPERIMENTS):
    assert "prompt_tuning.experiments" not in rooms
  if not name.startswith(("prompt_tuning/__main__", *IMPORT_EXPERIMENTS[1:])):
    assert "prompt_tuning.commands" not in rooms
  private = {x for x in imports if re.search(r"\._[a-z]\w*$", x)}
  assert not {x for x in private if _roots([x]) & {"prompt_tuning", "t5x"}}
  # A room imports from the rows above.
  dotted = _dotted(name)
  if "." in dotted and not name.startswith("benchmarks"):
    own = _room(dotted)
    assert own, f"{name}: give it a row"
    package, _, room = own.partition(".")
    same = {x for x in rooms if x.startswith(package)}
    assert not {x for x in same if RANKS[x] > RANKS[own]}
    if package == "prompt_tuning" and room in WITHOUT_TRAINER:
      assert not {"t5x", "gin"} & roots


def test_no_module_imports_itself_in_a_circle():
  """Holds inside of every room too, `TYPE_CHECKING` imports included."""
  waiting = {
    dotted: {
      module
      for x in _imports(name)
      if (module := _module(x))
      and module != dotted
      # The package's own module defines its lazy attributes by name alone.
      and module not in ("prompt_tuning", "t5x")
    }
    for dotted, name in BY_DOTTED.items()
  }
  while free := {x for x, needs in waiting.items() if not needs}:
    waiting = {x: needs - free for x, needs in waiting.items() if x not in free}
  assert not waiting


def test_the_package_cannot_hide_an_import():
  code = "import prompt_tuning as pt\nfrom prompt_tuning import load\npt.Model"
  names = set(_names(ast.parse(code)))
  assert {"prompt_tuning.load", "prompt_tuning.Model"} <= names


def test_the_folder_of_gin_files_is_no_package():
  """It would shadow the library of that name."""
  assert not (ROOT / "gin" / "__init__.py").exists()


@pytest.mark.parametrize("name", MODULES)
def test_files_and_functions_are_short(name):
  assert len((ROOT / name).read_text().splitlines()) <= MAX_FILE
  for node in ast.walk(_tree(name)):
    if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
      assert node.end_lineno - node.lineno < MAX_FUNCTION, node.name
