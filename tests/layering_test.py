"""Who may import whom (DESIGN: the trainer does not know prompt tuning)."""

import ast
import pathlib

import pytest

ROOT = pathlib.Path(__file__).parents[1]
MODULES = sorted(
  [*ROOT.glob("prompt_tuning/**/*.py"), *ROOT.glob("runtime/t5x/**/*.py")]
)
# Pure parts of the library: they run without the trainer and without gin.
PURE = ("prompts.py", "masks.py", "t5/", "methods/", "data/")


def _imports(path):
  names = set()
  for node in ast.walk(ast.parse(path.read_text())):
    if isinstance(node, ast.Import):
      names |= {alias.name for alias in node.names}
    elif isinstance(node, ast.ImportFrom):
      assert node.level == 0, f"{path}: relative import"
      names |= {f"{node.module}.{alias.name}" for alias in node.names}
  return names


def _roots(path):
  return {name.partition(".")[0] for name in _imports(path)}


@pytest.mark.parametrize(
  "path", MODULES, ids=lambda p: str(p.relative_to(ROOT))
)
def test_imports(path):
  name = str(path.relative_to(ROOT))
  roots = _roots(path)
  assert "scripts" not in roots
  if name.startswith("runtime/"):
    assert "prompt_tuning" not in roots
  if name.removeprefix("prompt_tuning/").startswith(PURE):
    assert not {"t5x", "gin"} & roots
  if "gin" in roots:
    assert name in {"runtime/t5x/gin_utils.py", "runtime/t5x/records.py"}
  assert "@gin.configurable" not in path.read_text()


def test_modules_were_found():
  assert len(MODULES) > 30
