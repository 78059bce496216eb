"""Settings that must precede the first use of JAX."""

import os
import tempfile

os.environ["JAX_NUMPY_RANK_PROMOTION"] = "raise"
# There is no hub but those that tests serve.
os.environ["HF_ENDPOINT"] = "http://127.0.0.1:9"
# Tests compile much and compute little: this halves the compiler's time.
os.environ["XLA_FLAGS"] = (
  f"{os.environ.get('XLA_FLAGS', '')} --xla_backend_optimization_level=0"
)
# Many tests compile the same program: the second time it is read from here, by
# all workers of pytest-xdist, which inherit the variable.
if "PYTEST_XDIST_WORKER" not in os.environ:
  _CACHE = tempfile.TemporaryDirectory(prefix="jax_cache_")
  os.environ["JAX_COMPILATION_CACHE_DIR"] = _CACHE.name
os.environ["JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS"] = "0"

from absl import logging
import gin
import pytest

from t5x.configuration.client import clients

if not clients():
  raise RuntimeError(
    "prompt_tuning is not registered with the trainer: run "
    "`python -m pip install --no-deps -e . -e runtime` again."
  )


_VERBOSITY = logging.get_verbosity()


@pytest.fixture(autouse=True)
def _own_process():
  """A command sets gin's configuration and what is logged for its process.

  No test finds those of another.
  """
  logging.set_verbosity(_VERBOSITY)
  yield
  gin.clear_config()


@pytest.fixture(scope="session")
def base(tmp_path_factory):
  """A tiny base model, not to be changed."""
  import tiny  # What it needs takes seconds to import.

  return tiny.save_base(tmp_path_factory.mktemp("base"))
