"""Settings that must precede the first use of JAX."""

import os
import tempfile

os.environ["JAX_NUMPY_RANK_PROMOTION"] = "raise"
# Tests have no hub except those that they serve.
os.environ["HF_ENDPOINT"] = "http://127.0.0.1:9"
# Tests compile much and compute little, and this halves the compiler's time.
os.environ["XLA_FLAGS"] = (
  f"{os.environ.get('XLA_FLAGS', '')} --xla_backend_optimization_level=0"
)
# Many tests compile the same program. All workers of pytest-xdist inherit this
# variable, so each program is compiled once.
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
  """Undoes the gin configuration and logging level that a command sets.

  Commands set them for the whole process; each test starts without them.
  """
  logging.set_verbosity(_VERBOSITY)
  yield
  gin.clear_config()


@pytest.fixture(scope="session")
def base(tmp_path_factory):
  """A tiny base model, which tests must not change."""
  import tiny  # Its imports take seconds.

  return tiny.save_base(tmp_path_factory.mktemp("base"))
