"""Compiled programs are kept from one process to the next."""

import json
import os
import pathlib
import re
import subprocess
import sys

import pytest

from t5x.runs import compilation_cache

pytestmark = pytest.mark.slow

# Attention and its gradient, and what JAX counted meanwhile.
PROGRAM = """
import json, sys
from t5x import compilation_cache  # First, for what it has XLA log.
import jax, jax.numpy as jnp
folder = compilation_cache.enable()
counts = {"cache_hits": 0, "cache_misses": 0}
def count(event, **kwargs):
  name = event.rpartition("/")[2]
  if name in counts:
    counts[name] += 1
jax.monitoring.register_event_listener(count)
jax.config.update("jax_persistent_cache_min_compile_time_secs", 0.0)
from prompt_tuning.t5 import attention
x = jax.random.normal(jax.random.key(0), (3, 2, 4, 70, 16), jnp.bfloat16)
def loss(query, key, value):
  return attention.attention(query, key, value).astype(jnp.float32).sum()
result, gradients = jax.jit(jax.value_and_grad(loss, (0, 1, 2)))(*x)
numbers = [float(result), *(float(abs(g).sum()) for g in gradients)]
print(json.dumps({"folder": folder, "numbers": numbers, **counts}))
"""


def _run(home, **environment):
  return subprocess.Popen(
    [sys.executable, "-c", PROGRAM],
    env={
      **{
        name: value
        for name, value in os.environ.items()
        if not name.startswith(("JAX_", "TF_CPP_"))
      },
      "JAX_PLATFORMS": "cpu",
      "XDG_CACHE_HOME": str(home),
      **environment,
    },
    stdout=subprocess.PIPE,
    stderr=subprocess.PIPE,
    text=True,
  )


def _said(process):
  out, errors = process.communicate(timeout=120)
  assert process.returncode == 0, errors
  return json.loads(out), errors


@pytest.fixture(scope="module")
def first(tmp_path_factory):
  """A cache, and what the program said that filled it."""
  home = tmp_path_factory.mktemp("home")
  return home, _said(_run(home))[0]


def test_a_second_process_compiles_nothing_and_computes_the_same(first):
  home, cold = first
  assert cold["cache_hits"] == 0
  assert cold["cache_misses"] > 0
  # Two at once, which share the folder.
  for warm, errors in map(_said, [_run(home), _run(home)]):
    assert warm["numbers"] == cold["numbers"]
    assert warm["cache_misses"] == 0
    assert warm["cache_hits"] == cold["cache_misses"]
    assert not errors


def test_xla_finds_no_feature_missing_in_a_program_of_this_processor(first):
  home, _ = first
  _, said = _said(_run(home, TF_CPP_MIN_LOG_LEVEL="0"))
  missing = re.findall(r"Target machine feature (\S+) is not", said)
  # How LLVM should choose among instructions: XLA asks for them, and then
  # misses them in what the processor has.
  assert set(missing) <= {"+prefer-no-gather", "+prefer-no-scatter"}


def test_the_folder_is_the_users_and_of_the_processor(first):
  home, cold = first
  folder = pathlib.Path(cold["folder"])
  assert folder.parent == home / "t5x" / "compiled"
  assert folder.name == compilation_cache._processor()
  assert any(folder.iterdir())


def test_a_damaged_program_is_compiled_again(first):
  home, cold = first
  (folder,) = home.glob("t5x/compiled/*")
  for path in folder.glob("*-cache"):
    path.write_bytes(path.read_bytes()[:100])
  again, errors = _said(_run(home))
  assert again["numbers"] == cold["numbers"]
  assert "Error reading persistent compilation cache entry" in errors


def test_jaxs_own_settings_win(tmp_path):
  chosen = str(tmp_path / "chosen")
  processes = [
    _run(tmp_path, JAX_ENABLE_COMPILATION_CACHE="0"),
    _run(tmp_path, JAX_COMPILATION_CACHE_DIR=chosen),
  ]
  off, on = (_said(process)[0] for process in processes)
  assert off["folder"] is None
  assert on["folder"] == chosen
  assert [x.name for x in tmp_path.iterdir()] == ["chosen"]


def test_a_home_that_cannot_be_written_turns_it_off(tmp_path):
  (tmp_path / "file").touch()
  said, errors = _said(_run(tmp_path / "file"))
  assert said["folder"] is None
  assert not errors
