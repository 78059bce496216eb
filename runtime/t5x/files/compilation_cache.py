"""Compiled programs of earlier commands, kept in the user's cache folder.

JAX keeps them, and its own settings win: JAX_COMPILATION_CACHE_DIR names the
folder, JAX_ENABLE_COMPILATION_CACHE=0 turns the cache off.

On a CPU XLA logs, at a level that `t5x` does not show, that a loaded program
wants "prefer-no-gather" and "prefer-no-scatter" and might stop on an illegal
instruction. These are preferences, not instructions.
"""

import os
import pathlib
import stat

from absl import logging
import jax

# Bytes of a folder; the least recently used programs go first.
_MAX_SIZE = 2 << 30
# Least seconds of compilation. Reading a program takes some milliseconds.
_WORTH_KEEPING = 0.1
# The user who may write everywhere anyway.
_ROOT = 0


def enable() -> str | None:
  """Makes JAX read programs that it compiled before, and keep new ones.

  Any number of processes may share the folder: JAX locks it, and distinguishes
  kinds of processors.

  Returns:
    The folder; None if the cache is off, or the folder cannot be made or is
    open to others.
  """
  config = jax.config
  if not config.jax_enable_compilation_cache:
    return None
  if config.jax_compilation_cache_dir is not None:
    return config.jax_compilation_cache_dir
  cache = os.environ.get("XDG_CACHE_HOME") or pathlib.Path.home() / ".cache"
  folder = pathlib.Path(cache, "t5x", "compiled")
  try:
    folder.mkdir(parents=True, exist_ok=True)
  except OSError:  # Such as a read-only home folder.
    return None
  if not os.access(folder, os.W_OK):
    return None
  status = folder.stat()
  # A kept program runs with this user's rights, whoever wrote it.
  if status.st_uid not in (os.getuid(), _ROOT) or status.st_mode & stat.S_IWOTH:
    logging.warning(
      "%s is not used, because other users may write to it: programs are "
      "compiled again. Make it private (chmod o-w), or choose another with "
      "XDG_CACHE_HOME.",
      folder,
    )
    return None
  config.update("jax_compilation_cache_dir", str(folder))
  config.update("jax_compilation_cache_max_size", _MAX_SIZE)
  config.update("jax_persistent_cache_min_compile_time_secs", _WORTH_KEEPING)
  return str(folder)
