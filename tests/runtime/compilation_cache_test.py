"""Tests that compiled programs are kept from one process to the next."""

from concurrent import futures
import json
import os
import re
import types

import pytest
import started

from t5x.files import compilation_cache

# Computes attention and its gradient; prints them and JAX's counts.
PROGRAM = """
import json, sys
import prompt_tuning  # Before JAX, it hides what XLA notes.
import jax, jax.numpy as jnp
from t5x.files import compilation_cache
folder = compilation_cache.enable()
counts = {"cache_hits": 0, "cache_misses": 0}
def count(event, **kwargs):
  name = event.rpartition("/")[2]
  if name in counts:
    counts[name] += 1
jax.monitoring.register_event_listener(count)
jax.config.update("jax_persistent_cache_min_compile_time_secs", 0.0)
from prompt_tuning.models import attention
x = jax.random.normal(jax.random.key(0), (3, 2, 4, 70, 16), jnp.bfloat16)
def loss(query, key, value):
  return attention.attention(query, key, value).astype(jnp.float32).sum()
result, gradients = jax.jit(jax.value_and_grad(loss, (0, 1, 2)))(*x)
numbers = [float(result), *(float(abs(g).sum()) for g in gradients)]
print(json.dumps({"folder": folder, "numbers": numbers, **counts}))
"""


def _run(home, log_level=None):
  """Runs the program; returns its output and its log."""
  environment = {"JAX_PLATFORMS": "cpu", "XDG_CACHE_HOME": str(home)}
  if log_level is not None:
    environment["TF_CPP_MIN_LOG_LEVEL"] = log_level
  environment = started.plain_environment() | environment
  done = started.python("-c", PROGRAM, env=environment, timeout=120)
  return json.loads(done.stdout), done.stderr


@pytest.mark.slow
def test_a_second_process_compiles_nothing_and_computes_the_same(tmp_path):
  cold, _ = _run(tmp_path)
  assert cold["cache_hits"] == 0
  assert cold["cache_misses"] > 0
  # Two processes share the folder; the second shows XLA's log.
  with futures.ThreadPoolExecutor() as threads:
    quiet, verbose = threads.map(_run, [tmp_path] * 2, [None, "0"])
  for warm in (quiet[0], verbose[0]):
    assert warm["numbers"] == cold["numbers"]
    assert warm["cache_misses"] == 0
    assert warm["cache_hits"] == cold["cache_misses"]
  assert not quiet[1]
  missing = re.findall(r"Target machine feature (\S+) is not", verbose[1])
  # XLA asks LLVM for these preferences, and then misses them in the processor.
  assert set(missing) <= {"+prefer-no-gather", "+prefer-no-scatter"}
  # A damaged program is compiled again.
  for path in tmp_path.glob("t5x/compiled/*-cache"):
    path.write_bytes(path.read_bytes()[:100])
  again, errors = _run(tmp_path)
  assert again["numbers"] == cold["numbers"]
  assert again["cache_misses"] == cold["cache_misses"]
  assert "Error reading persistent compilation cache entry" in errors


@pytest.mark.parametrize("owner", ["others may write", "another"])
def test_a_folder_that_others_may_write_to_is_not_used(
  tmp_path, monkeypatch, caplog, owner
):
  """Programs in the folder would run with this user's rights."""
  folder = tmp_path / "t5x" / "compiled"
  folder.mkdir(parents=True)
  folder.chmod(0o777 if owner == "others may write" else 0o755)
  if owner == "another":
    monkeypatch.setattr(os, "getuid", lambda: folder.stat().st_uid + 1)
    monkeypatch.setattr(compilation_cache, "_ROOT", -1)
  config = types.SimpleNamespace(
    jax_enable_compilation_cache=True, jax_compilation_cache_dir=None
  )
  monkeypatch.setattr(compilation_cache.jax, "config", config)
  monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
  assert compilation_cache.enable() is None
  assert f"{folder} is not used" in caplog.text


@pytest.mark.parametrize(
  ("is_on", "given", "home", "found"),
  [
    (True, None, "home", "home"),
    (False, None, "home", None),
    (True, "chosen", "home", "chosen"),
    # The folder cannot be made below a file.
    (True, None, "file", None),
  ],
)
def test_the_folder_is_the_users_unless_jaxs_settings_say_otherwise(
  tmp_path, monkeypatch, is_on, given, home, found
):
  (tmp_path / "file").touch()
  updates = {}
  # JAX's own settings are shared by every test of this process.
  config = types.SimpleNamespace(
    jax_enable_compilation_cache=is_on,
    jax_compilation_cache_dir=given,
    update=updates.__setitem__,
  )
  monkeypatch.setattr(compilation_cache.jax, "config", config)
  monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / home))
  expected = {}
  if found == "home":
    found = str(tmp_path / "home" / "t5x" / "compiled")
    expected = {"jax_compilation_cache_dir": found}
  assert compilation_cache.enable() == found
  assert expected.items() <= updates.items()
  assert bool(expected) == bool(updates)
