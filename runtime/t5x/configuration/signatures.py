"""The annotations of parameters, read from the source code.

Importing the modules that gin files name takes seconds; finding a wrong value
should not.
"""

import ast
import builtins
import functools
import importlib.util
import pathlib
from typing import Any

# Modules that are imported, because annotations are made of their names.
_IMPORTED = ("typing", "collections.abc", "pydantic")
# Literals may be values of these classes' subclasses.
_LITERAL_BASES = {"NamedTuple", "TypedDict", "str", "int", "float", "Protocol"}
# A placeholder for further parameters that may exist.
OTHERS = "**"


class _Module(dict[str, Any]):
  """The values of a module's names in annotations; `Any` where unknown."""

  def __init__(self, name: str, path: pathlib.Path):
    super().__init__()
    self.name = name
    self.nodes: dict[str, ast.stmt] = {}
    self.origins: dict[str, str] = {}  # Imported name -> full name.
    for node in ast.parse(path.read_text(encoding="utf-8")).body:
      match node:
        case ast.ClassDef() | ast.FunctionDef():
          self.nodes[node.name] = node
        case ast.Assign(targets=[ast.Name(id=target)]):
          self.nodes[target] = node
        case ast.Import() | ast.ImportFrom(level=0):
          package = getattr(node, "module", None)
          for x in node.names:
            full = f"{package}.{x.name}" if package else x.name
            self.origins[x.asname or x.name] = full

  def __getattr__(self, name: str) -> Any:
    return self[name]

  def __missing__(self, name: str) -> Any:
    self[name] = Any  # In case it is defined by itself.
    origin = self.origins.get(name, f"{self.name}.{name}")
    place, _, last = origin.rpartition(".")
    if name not in self.nodes and name not in self.origins:
      self[name] = getattr(builtins, name, Any)
    elif place in _IMPORTED:
      self[name] = getattr(importlib.import_module(place), last, Any)
    elif (found := _find(origin)) is not None:
      module, node = found
      if node is None:
        self[name] = module
      elif isinstance(node, ast.Assign):
        self[name] = module.evaluate(node.value)
      elif isinstance(node, ast.ClassDef) and _LITERAL_BASES.isdisjoint(
        map(ast.unparse, node.bases)
      ):
        self[name] = type(last, (), {"__module__": module.name})
    return self[name]

  def evaluate(self, node: ast.expr | None) -> Any:
    """Returns the value of an annotation."""
    try:
      code = compile(ast.Expression(node), self.name, "eval")  # pyright: ignore[reportArgumentType]
      return eval(code, {"__builtins__": {}}, self)
    except Exception:  # Names that are unknown here may cause any error.
      return Any


@functools.cache
def _module(name: str) -> _Module | None:
  top, *rest = name.split(".")
  spec = importlib.util.find_spec(top)  # This imports nothing.
  if spec is None or spec.origin is None:
    return None
  paths = [pathlib.Path(spec.origin)]
  if rest:
    stems = [
      pathlib.Path(x, *rest) for x in spec.submodule_search_locations or ()
    ]
    paths = [x.with_suffix(".py") for x in stems]
    paths += [x / "__init__.py" for x in stems]
  found = (x for x in paths if x.suffix == ".py" and x.is_file())
  return next((_Module(name, x) for x in found), None)


def _find(name: str) -> tuple[_Module, ast.stmt | None] | None:
  """Finds a full name's module and its definition, None if it is the module."""
  parts = name.split(".")
  for size in range(len(parts), 0, -1):
    if (module := _module(".".join(parts[:size]))) is None:
      continue
    if size == len(parts):
      return module, None
    first, *rest = parts[size:]
    origin = module.origins.get(first)
    if origin not in (None, f"{module.name}.{first}"):
      return _find(".".join([origin, *rest]))
    node = module.nodes.get(first)
    for part in rest:
      inner = getattr(node, "body", ())
      node = next((x for x in inner if getattr(x, "name", "") == part), None)
    return None if node is None else (module, node)
  return None


@functools.cache
def parameters(name: str) -> dict[str, Any] | None:
  """Returns the parameters of a function or class.

  Args:
    name: Its full name, such as "t5x.utils.DatasetConfig".

  Returns:
    Parameter -> annotation, with `OTHERS` if there may be more; None if the
    function is unknown.
  """
  if (found := _find(name)) is None:
    return None
  module, node = found
  if isinstance(node, ast.FunctionDef):
    for x in node.decorator_list:
      # From `t5x.runs.plan`: the function takes the arguments of a plan.
      if isinstance(x, ast.Call) and "with_arguments_of" in ast.unparse(x):
        return parameters(f"{module.name}.{ast.unparse(x.args[0])}")
    given = node.args
    found_arguments = [*given.posonlyargs, *given.args, *given.kwonlyargs]
    hints = {x.arg: module.evaluate(x.annotation) for x in found_arguments}
    return hints | ({OTHERS: Any} if given.kwarg else {})
  if not isinstance(node, ast.ClassDef):
    return None
  if any(getattr(x, "name", "") == "__init__" for x in node.body):
    return parameters(f"{name}.__init__")
  hints = {}
  for base in node.bases:
    inherited = parameters(f"{module.name}.{ast.unparse(base)}")
    hints |= {OTHERS: Any} if inherited is None else inherited
  for x in node.body:
    if isinstance(x, ast.AnnAssign):
      hints[ast.unparse(x.target)] = module.evaluate(x.annotation)
      if "init=False" in ast.unparse(x):
        del hints[ast.unparse(x.target)]
  return hints
