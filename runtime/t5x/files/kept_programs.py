"""Compiled programs that are found again without being traced.

JAX finds a compiled program by its lowered text, so every process traces and
lowers it first, which takes most of the time until it runs. Here a program is
found by everything that determines this text: the caller's description, the
code of the packages that make it, JAX's version and settings, and the machine.
If any of these differs, it is another program.

JAX's own cache is off meanwhile, because a program that JAX has read from it
cannot be kept: on a CPU, some of its functions would be missing from the file.
"""

from collections.abc import Callable, Iterator, Sequence
import contextlib
import functools
import hashlib
from importlib import metadata
import os
import pathlib
import pickle
import sys

from absl import logging
import jax
from jax.experimental import serialize_executable
from jax.experimental.compilation_cache import compilation_cache
import psutil

from t5x.files import safe_files

# Bytes of the folder; the least recently used programs go first.
_MAX_SIZE = 1 << 30
# Libraries that affect the programs, as the packages do.
_LIBRARIES = ("jax", "jaxlib", "flax", "numpy")
_VARIABLES = ("XLA_FLAGS", "LIBTPU_INIT_ARGS")
_DIGEST_BYTES = hashlib.sha256().digest_size
_ENABLED = "jax_enable_compilation_cache"
CompileFn = Callable[
  [Callable[[], jax.stages.Lowered], str], jax.stages.Compiled
]


@contextlib.contextmanager
def keeping(*packages: str) -> Iterator[CompileFn]:
  """Keeps programs in the folder of `compilation_cache`, if that is on.

  Args:
    *packages: The imported packages whose code makes the programs.

  Yields:
    A function that compiles a program for the first device, or reads it. Its
    arguments are a function that traces and lowers the program, and a text that
    distinguishes it from other programs of this code, such as its function, the
    shapes of its arguments and the values in its closure.
  """
  cache = jax.config.jax_compilation_cache_dir
  is_on = cache and jax.config.jax_enable_compilation_cache
  code = _code(packages) if is_on and "://" not in cache else None
  if code is None:
    yield lambda lower, description: lower().compile()
    return
  facts = "\n".join([code, *_surroundings()])

  def compiled(
    lower: Callable[[], jax.stages.Lowered], description: str
  ) -> jax.stages.Compiled:
    name = hashlib.sha256(f"{description}\n{facts}".encode())
    file = pathlib.Path(cache, "kept", name.hexdigest())
    if (program := _read(file)) is None:
      program = lower().compile()
      _keep(file, program)
    return program

  _switch_cache(False)
  try:
    yield compiled
  finally:
    _switch_cache(True)


def _switch_cache(enabled: bool) -> None:
  jax.config.update(_ENABLED, enabled)
  # JAX reads the setting only at its first compilation.
  compilation_cache.reset_cache()


@functools.cache
def _code(packages: Sequence[str]) -> str | None:
  """Returns a digest of code; None if a file is newer than this process."""
  digest = hashlib.sha256()
  started = psutil.Process().create_time()
  for package in packages:
    folder = pathlib.Path(sys.modules[package].__path__[0])
    for file in sorted(folder.rglob("*.py")):
      if file.stat().st_mtime > started:
        return None
      content = file.read_bytes()
      digest.update(
        f"{package}/{file.relative_to(folder)} {len(content)}\n".encode()
      )
      digest.update(content)
  return digest.hexdigest()


def _surroundings() -> list[str]:
  """Returns the facts that programs depend on besides the packages' code."""
  device = jax.local_devices()[0]
  settings = sorted(jax.config.values.items())
  facts = [
    sys.version,
    *(metadata.version(x) for x in _LIBRARIES),
    *(os.environ.get(x, "") for x in _VARIABLES),
    *(x for x in settings if "cache" not in x[0]),
    (device.platform, device.device_kind, device.client.platform_version),
    (jax.device_count(), os.cpu_count(), _processor()),
  ]
  return [repr(x) for x in facts]


@functools.cache
def _processor() -> str:
  """Returns the CPU's instruction sets, which its programs may use."""
  with contextlib.suppress(OSError):
    lines = pathlib.Path("/proc/cpuinfo").read_text().splitlines()
    # The line of the first core; ARM calls its flags features.
    for line in lines:
      if line.lower().startswith(("flags", "features")):
        return line
  return repr(os.uname())


def _read(file: pathlib.Path) -> jax.stages.Compiled | None:
  """Reads a program; None if it is missing, damaged, or for another JAX."""
  try:
    content = file.read_bytes()
  except OSError:
    return None
  digest, content = content[:_DIGEST_BYTES], content[_DIGEST_BYTES:]
  if hashlib.sha256(content).digest() != digest:
    return None
  try:
    program = serialize_executable.deserialize_and_load(
      *pickle.loads(content), execution_devices=jax.local_devices()[:1]
    )
  except Exception as error:  # It is compiled instead, whatever the reason.
    logging.info("A kept program cannot be read: %r.", error)
    return None
  with contextlib.suppress(OSError):
    os.utime(file)
  return program


def _keep(file: pathlib.Path, program: jax.stages.Compiled) -> None:
  """Writes a program, and removes the least recently used ones."""
  try:
    content = pickle.dumps(serialize_executable.serialize(program))
  except (ValueError, NotImplementedError) as error:
    logging.info("A program cannot be kept: %r.", error)
    return
  with contextlib.suppress(OSError):  # Such as a full disk.
    file.parent.mkdir(mode=0o700, exist_ok=True)
    safe_files.write(file, hashlib.sha256(content).digest() + content)
    left = _MAX_SIZE
    kept = [(x.stat(), x) for x in file.parent.iterdir()]
    for status, other in sorted(kept, key=lambda x: -x[0].st_mtime):
      left -= status.st_size
      if left < 0:
        other.unlink(missing_ok=True)
