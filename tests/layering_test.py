"""Who may import whom: the rooms of the library, and the trainer beside it."""

import ast
import pathlib

import pytest

ROOT = pathlib.Path(__file__).parents[1]
# In order: a room imports only from those above it.
ROOMS = (
  ("types", "whole_files", "text_tables"),
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
)
RANKS = {room: rank for rank, row in enumerate(ROOMS) for room in row}
# They run without the trainer.
WITHOUT_TRAINER = (*ROOMS[0], *ROOMS[1], "methods", "models", "data")
# Where tf.data is.
TENSORFLOW = (
  "prompt_tuning/commands/",
  "prompt_tuning/data/",
  "prompt_tuning/mini/",
  "benchmarks/",
  "runtime/t5x/input/",
  *(
    f"runtime/t5x/{module}.py"
    for module in (
      "__init__",
      "runs/inference",
      "runs/run_data",
    )
  ),
)
READ_GIN = (
  "runtime/t5x/configuration/",
  "runtime/t5x/gin_utils.py",
  "runtime/t5x/runs/records.py",
)
MAY_IMPORT_EXPERIMENTS = (
  "prompt_tuning/experiments/",
  "prompt_tuning/commands/",
  "benchmarks/",
)
MODULES = sorted(
  str(path.relative_to(ROOT))
  for folder in ("prompt_tuning", "runtime/t5x", "benchmarks")
  for path in ROOT.glob(f"{folder}/**/*.py")
)


def _imports(name):
  """The full names of what a file imports."""
  names = set()
  for node in ast.walk(ast.parse((ROOT / name).read_text())):
    if isinstance(node, ast.Import):
      names |= {alias.name for alias in node.names}
    elif isinstance(node, ast.ImportFrom):
      assert node.level == 0, f"{name}: relative import"
      names |= {f"{node.module}.{alias.name}" for alias in node.names}
  return names


def _room(dotted):
  """The room of "prompt_tuning.room.module", or None."""
  package, _, rest = dotted.partition(".")
  room = rest.partition(".")[0]
  return room if package == "prompt_tuning" and room in RANKS else None


def _roots(names):
  return {name.partition(".")[0] for name in names}


@pytest.mark.parametrize("name", MODULES)
def test_imports(name):
  imports = _imports(name)
  roots = _roots(imports)
  text = (ROOT / name).read_text()
  assert "@gin.configurable" not in text
  if "gin" in roots:
    assert name.startswith(READ_GIN)
  if name.startswith("runtime/"):
    assert "prompt_tuning" not in roots
  if {"tensorflow", "tensorflow_datasets", "tensorflow_text"} & roots:
    assert name.startswith(TENSORFLOW)
  if not name.startswith(MAY_IMPORT_EXPERIMENTS):
    assert not {x for x in imports if _room(x) == "experiments"}
  insides = {x for x in imports if x.rpartition(".")[2].startswith("_")}
  assert not {x for x in insides if _roots([x]) & {"prompt_tuning", "t5x"}}


@pytest.mark.parametrize(
  "name", [name for name in MODULES if name.startswith("prompt_tuning/")]
)
def test_a_room_imports_from_those_above(name):
  own = _room(name.removesuffix(".py").replace("/", "."))
  if own is None:
    assert name in {"prompt_tuning/__init__.py", "prompt_tuning/__main__.py"}, (
      f"{name}: give it a row"
    )
    return
  imports = _imports(name)
  below = {x for x in imports if (r := _room(x)) and RANKS[r] > RANKS[own]}
  assert not below
  if own in WITHOUT_TRAINER:
    assert not {"t5x", "gin"} & _roots(imports)


def test_one_module_asks_which_t5x_is_installed():
  asks = [
    name
    for name in MODULES
    if name.startswith("prompt_tuning/")
    and "hasattr(checkpoints" in (ROOT / name).read_text()
  ]
  assert asks == ["prompt_tuning/training/google_t5x.py"]


def test_the_folder_of_gin_files_is_no_package():
  """It would shadow the library of that name."""
  assert not (ROOT / "gin" / "__init__.py").exists()


# A file or a function that is longer wants to be two.
MAX_FILE, MAX_FUNCTION = 400, 80


@pytest.mark.parametrize("name", MODULES)
def test_files_and_functions_are_short(name):
  text = (ROOT / name).read_text()
  lengths = {name: (len(text.splitlines()), MAX_FILE)} | {
    f"{name} {node.name}": (node.end_lineno - node.lineno + 1, MAX_FUNCTION)
    for node in ast.walk(ast.parse(text))
    if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef)
  }
  longer = {x: lines for x, (lines, most) in lengths.items() if lines > most}
  assert not longer


def test_modules_and_rooms_were_found():
  assert len(MODULES) > 30
  assert {
    room for name in MODULES if (room := _room(name[:-3].replace("/", ".")))
  } >= {"models", "data", "experiments"}
