"""The parts of `benchmarks/reliability.py`, which use pieces of `tests/`."""

import os
import pathlib
import sys

_ROOT = pathlib.Path(__file__).parents[2]
_FOLDERS = [str(_ROOT / "benchmarks"), str(_ROOT / "tests")]
sys.path += [x for x in _FOLDERS if x not in sys.path]
# For the processes that they start.
os.environ["PYTHONPATH"] = os.pathsep.join(
  [*_FOLDERS, *filter(None, [os.environ.get("PYTHONPATH")])]
)
os.environ.setdefault("JAX_PLATFORMS", "cpu")
