"""The part of T5X's interface that prompt tuning uses, from PyPI alone."""

from collections.abc import Iterator, Sequence
import contextlib
import importlib.abc
import importlib.machinery
import importlib.util
import os
import sys
import threading
import types

__version__ = "0.1.0"

# For TensorFlow; here, because JAX sets the first to "1".
os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
os.environ.setdefault("TF_ENABLE_ONEDNN_OPTS", "0")
# gcsfs reads gs:// paths, by `t5x.files.storage`; without it, TensorFlow does.
if importlib.util.find_spec("gcsfs") is not None:
  os.environ.setdefault("EPATH_USE_TF", "0")


@contextlib.contextmanager
def without(name: str) -> Iterator[None]:
  """What is imported within it does without a module that it can do without.

  Args:
    name: Of the module. If it is loaded already, nothing is gained.
  """
  if name in sys.modules:
    yield
    return
  sys.modules[name] = None  # type: ignore[assignment]
  try:
    yield
  finally:
    del sys.modules[name]


@contextlib.contextmanager
def _quiet() -> Iterator[None]:
  """Discards what is written to descriptor 2, where Python does not hear it.

  The descriptor is the whole program's: where there are other threads, what
  they write would be lost, so nothing is discarded.
  """
  if threading.active_count() > 1:
    yield
    return
  stderr = os.dup(2)
  null = os.open(os.devnull, os.O_WRONLY)
  try:
    os.dup2(null, 2)
    yield
  finally:
    os.dup2(stderr, 2)
    os.close(stderr)
    os.close(null)


# Layers of tensorflow_text, which import Keras.
_KERAS_LAYERS = "tensorflow_text.python.keras"


class _OnDemandLoader(importlib.machinery.SourceFileLoader):
  """Runs a module when something is looked up in it.

  Python's own `LazyLoader` takes a look at `__file__` for that, which who goes
  through all modules does.
  """

  def exec_module(self, module: types.ModuleType) -> None:
    run = super().exec_module

    def look_up(name: str) -> object:
      if name.startswith("__"):
        raise AttributeError(name)
      del module.__dict__["__getattr__"]
      run(module)
      return getattr(module, name)

    module.__dict__["__getattr__"] = look_up


class _TensorFlowLoader(importlib.machinery.SourceFileLoader):
  """Imports TensorFlow without the notes that no setting of it turns off.

  It reads the data and nothing else here, so what it says about accelerators
  is not news.
  """

  def exec_module(self, module: types.ModuleType) -> None:
    with _quiet():
      # Keras takes as long as half of TensorFlow. It is there for who asks.
      with without("keras.src.optimizers"):
        super().exec_module(module)
      import tensorflow_text  # noqa: F401

      # The accelerator is JAX's.
      for kind in ("GPU", "TPU"):
        module.config.set_visible_devices([], kind)


_LOADERS = {"tensorflow": _TensorFlowLoader, _KERAS_LAYERS: _OnDemandLoader}


class _TensorFlowFinder(importlib.abc.MetaPathFinder):
  """Sees to it, whoever imports TensorFlow; who reads no data does without."""

  def find_spec(
    self,
    fullname: str,
    path: Sequence[str] | None,
    target: types.ModuleType | None = None,
  ) -> importlib.machinery.ModuleSpec | None:
    if fullname not in _LOADERS:
      return None
    spec = importlib.machinery.PathFinder.find_spec(fullname, path, target)
    if spec is not None and spec.origin is not None:
      spec.loader = _LOADERS[fullname](fullname, spec.origin)
    return spec


sys.meta_path.insert(0, _TensorFlowFinder())
