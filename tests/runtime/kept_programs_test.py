"""Tests of compiled programs that are kept by everything they depend on."""

import sys
import types
from unittest import mock

import jax
from jax.experimental.compilation_cache import compilation_cache
import jax.numpy as jnp
import numpy as np
import pytest

from t5x.files import kept_programs

X = np.arange(3, dtype=np.float32)


@pytest.fixture
def folder(tmp_path):
  """The folder of kept programs, inside the folder of JAX's cache."""
  before = jax.config.jax_compilation_cache_dir
  jax.config.update("jax_compilation_cache_dir", str(tmp_path))
  compilation_cache.reset_cache()
  jax.jit(lambda: 0)()  # Makes JAX open its folder.
  yield tmp_path / "kept"
  jax.config.update("jax_compilation_cache_dir", before)
  compilation_cache.reset_cache()


def _lowered():
  # The function is new each time, so JAX has not compiled it yet.
  program = jax.jit(lambda x, y: {"sum": x + y}, donate_argnums=0)
  return program.lower(X, X)


@pytest.fixture
def lower():
  """A function that lowers a program with a donated argument."""
  return mock.Mock(side_effect=_lowered)


def compiled(lower, description="sum", packages=("t5x",)):
  with kept_programs.keeping(*packages) as compile_or_read:
    program = compile_or_read(lower, description)
  x = jnp.array(X)
  assert program(x, X)["sum"].tolist() == [0, 2, 4]
  assert x.is_deleted()
  assert program.out_info["sum"].shape == (3,)
  return lower.call_count


def test_a_kept_program_is_not_traced_again(folder, lower):
  assert [compiled(lower) for _ in range(3)] == [1, 1, 1]
  assert len([*folder.iterdir()]) == 1


@pytest.mark.parametrize("content", [b"", b"a", None])
def test_a_damaged_one_is_compiled_again(folder, lower, content):
  compiled(lower)
  (file,) = folder.iterdir()
  whole = file.read_bytes()
  damaged = bytearray(whole)
  damaged[len(whole) // 2] ^= 1
  file.write_bytes(damaged if content is None else content)
  assert [compiled(lower) for _ in range(2)] == [2, 2]


def test_one_of_another_jax_is_compiled_again(folder, lower):
  compiled(lower)
  with mock.patch.object(
    kept_programs.serialize_executable,
    "deserialize_and_load",
    side_effect=RuntimeError("another version"),
  ):
    assert compiled(lower) == 2


def package(monkeypatch, folder, name="its_code"):
  folder.mkdir(exist_ok=True)
  module = types.SimpleNamespace(__path__=[str(folder)])
  monkeypatch.setitem(sys.modules, name, module)
  kept_programs._code.cache_clear()
  return ("t5x", name)


def test_whatever_a_program_follows_from_tells_it_apart(
  folder, lower, monkeypatch, tmp_path
):
  changes = (
    lambda: None,
    lambda: monkeypatch.setenv("XLA_FLAGS", "--xla_cpu_enable_fast_math=true"),
    lambda: jax.config.update("jax_numpy_rank_promotion", "warn"),
    lambda: monkeypatch.setattr(kept_programs, "_processor", lambda: "avx"),
  )
  before = jax.config.jax_numpy_rank_promotion
  try:
    for number, change in enumerate(changes, 1):
      change()
      assert compiled(lower) == number
  finally:
    jax.config.update("jax_numpy_rank_promotion", before)
  assert compiled(lower, "another") == len(changes) + 1
  packages = package(monkeypatch, tmp_path / "code")
  assert compiled(lower, packages=packages) == len(changes) + 2


def test_code_that_changed_after_the_start_is_not_trusted(
  folder, lower, monkeypatch, tmp_path
):
  packages = package(monkeypatch, tmp_path / "code")
  (tmp_path / "code" / "new.py").write_text("pass")
  assert [compiled(lower, packages=packages) for _ in range(2)] == [1, 2]
  assert not folder.exists()


def test_the_least_recently_used_go(folder, lower, monkeypatch):
  for name in "abc":
    compiled(lower, name)
  files = {file: file.stat().st_size for file in folder.iterdir()}
  assert len(files) == 3
  assert compiled(lower, "a") == 3  # It is used again.
  monkeypatch.setattr(kept_programs, "_MAX_SIZE", 2.5 * max(files.values()))
  assert compiled(lower, "d") == 4
  assert len([*folder.iterdir()]) == 2
  assert [compiled(lower, name) for name in "adb"] == [4, 4, 5]


def test_what_jax_keeps_is_compiled_and_kept(folder, lower):
  """JAX's cache is not used: on a CPU, its programs would lack functions."""
  program = jax.jit(lambda x, y: {"sum": x - -y}, donate_argnums=0)
  lower.side_effect = lambda: program.lower(X, X)

  def count():
    return len([*folder.parent.glob("*lambda*-cache")])

  lower().compile()
  of_jax = count()
  jax.clear_caches()
  assert [compiled(lower) for _ in range(2)] == [2, 2]
  assert count() == of_jax
  jax.jit(lambda x: x * 7)(X)
  assert count() == of_jax + 1  # JAX's cache is on again.


@pytest.mark.parametrize("cache", [None, "gs://bucket/cache"])
def test_without_a_folder_it_is_compiled(folder, lower, cache):
  jax.config.update("jax_compilation_cache_dir", cache)
  assert [compiled(lower) for _ in range(2)] == [1, 2]
  assert not folder.exists()


def test_a_full_disk_ends_nothing(folder, lower):
  with mock.patch.object(
    kept_programs.safe_files, "write", side_effect=OSError("no space")
  ):
    assert [compiled(lower) for _ in range(2)] == [1, 2]
