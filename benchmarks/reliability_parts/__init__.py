"""The parts of `benchmarks/reliability.py`, which use pieces of `tests/`."""

import os
import pathlib
import sys

_ROOT = pathlib.Path(__file__).parents[2]
_FOLDERS = [str(_ROOT / "benchmarks"), str(_ROOT / "tests")]
sys.path += [x for x in _FOLDERS if x not in sys.path]
# For the processes that the parts start.
os.environ["PYTHONPATH"] = os.pathsep.join(
  [*_FOLDERS, *filter(None, [os.environ.get("PYTHONPATH")])]
)
os.environ.setdefault("JAX_PLATFORMS", "cpu")
# Otherwise such small programs would not be kept.
_CACHE = _ROOT / "runs" / "reliability" / "compiled"
os.environ.setdefault("JAX_COMPILATION_CACHE_DIR", str(_CACHE))
os.environ.setdefault("JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS", "0")
