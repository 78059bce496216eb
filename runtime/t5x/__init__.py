"""The part of T5X's interface that prompt tuning uses; needs only PyPI."""

from collections.abc import Iterator
import contextlib
import gc
import glob
import importlib.machinery
import importlib.util
import os
import sys
import threading
import types
from typing import Any

__version__ = "0.1.0"

# TensorFlow's settings. They are set here because JAX sets the first to "1".
os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
os.environ.setdefault("TF_ENABLE_ONEDNN_OPTS", "0")
# Modules through which JAX looks for devices. Where only the devices' compilers
# are installed, it would report missing libraries and hosts.
_HIDDEN: dict[str, Any] = {}
if not any(map(os.path.exists, ("/dev/nvidia0", "/dev/nvidiactl", "/dev/dxg"))):
  for _name in ("cuda12", "cuda13"):
    _HIDDEN[f"jax_{_name}_plugin"] = None
    _HIDDEN[f"jax_plugins.xla_{_name}"] = types.SimpleNamespace(initialize=bool)
if not glob.glob("/dev/accel[0-9]*") + glob.glob("/dev/vfio/[0-9]*"):
  _HIDDEN["libtpu"] = None
sys.modules.update(_HIDDEN)
# gcsfs reads gs:// paths for `t5x.files.storage`; without it, TensorFlow does.
if importlib.util.find_spec("gcsfs") is not None:
  os.environ.setdefault("EPATH_USE_TF", "0")


def show_compilers() -> None:
  """Lets JAX, which is imported afterwards, find compilers without devices."""
  for name in _HIDDEN:
    sys.modules.pop(name, None)


@contextlib.contextmanager
def without(name: str) -> Iterator[None]:
  """Hides an optional module from imports in this context.

  Args:
    name: The module. If it is loaded already, this does nothing.
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
  """Discards writes to file descriptor 2, which Python cannot intercept.

  The whole program shares the descriptor, so nothing is discarded while there
  are other threads: their output would be lost.
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


class _TensorFlow(importlib.machinery.SourceFileLoader):
  """Imports TensorFlow without the messages that no setting turns off.

  TensorFlow only reads data here, so its messages about accelerators do not
  matter.
  """

  @classmethod
  def find_spec(
    cls, fullname: str, *where: Any
  ) -> importlib.machinery.ModuleSpec | None:
    """Has this class load TensorFlow, whoever imports it."""
    if fullname != "tensorflow":
      return None
    spec = importlib.machinery.PathFinder.find_spec(fullname, *where)
    if spec is not None and spec.origin is not None:
      spec.loader = cls(fullname, spec.origin)
    return spec

  def exec_module(self, module: types.ModuleType) -> None:
    with contextlib.ExitStack() as stack, _quiet():
      # Modules stay in memory: repeated garbage collection during an import
      # takes most of a second and frees nothing.
      if gc.isenabled():
        gc.disable()
        stack.callback(gc.enable)
      # Keras takes half of the import time. An explicit import still finds it.
      with without("keras.src.optimizers"):
        super().exec_module(module)
      layers = "tensorflow_text.python.keras"
      sys.modules[layers] = types.ModuleType(layers)
      import tensorflow_text  # noqa: F401

      del sys.modules[layers]
      # The accelerator belongs to JAX.
      for kind in ("GPU", "TPU"):
        module.config.set_visible_devices([], kind)


sys.meta_path.insert(0, _TensorFlow)
