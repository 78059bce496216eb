"""Flags of `train`, `eval` and `infer`."""

from collections.abc import Sequence
import re

from absl import flags

_FLAGS = (
  ("multi_string", "gin_file", [], "A gin file; later ones win."),
  (
    "multi_string",
    "gin_bindings",
    [],
    "A gin binding, 'A.B = V'. --gin.A.B=V says the same. Strings are quoted: "
    "--gin.X=\"'text'\".",
  ),
  (
    "list",
    "gin_search_paths",
    ["."],
    "Folders to look for gin files in, in order. The folders of the installed "
    "packages follow.",
  ),
  (
    "string",
    "tfds_data_dir",
    None,
    "The folder of TFDS data; overrides every task's own.",
  ),
  (
    "list",
    "seqio_additional_cache_dirs",
    [],
    "Folders with cached seqio tasks.",
  ),
  (
    "bool",
    "multiprocess_gpu",
    None,
    "Start jax.distributed, with the flags below where processes do not find "
    "each other. By default: on TPU VMs, under srun, and if a flag is given.",
  ),
  ("string", "coordinator_address", None, "host:port of process 0."),
  ("integer", "process_count", None, "Number of processes."),
  ("integer", "process_index", None, "Index of this process."),
  (
    "integer",
    "initialization_timeout",
    None,
    "Seconds to wait for all processes.",
  ),
  ("bool", "dry_run", False, "Parse the configuration, then stop."),
  (
    "bool",
    "traceback",
    False,
    "Show where an error was raised, not only its message.",
  ),
)


def define_flags(values: flags.FlagValues = flags.FLAGS) -> None:
  """Defines the flags that the three entry points share, in `values`."""
  for kind, name, default, about in _FLAGS:
    define = getattr(flags, f"DEFINE_{kind}")
    define(name, default, about, flag_values=values)


def rewrite_gin_args(args: Sequence[str]) -> list[str]:
  """Rewrites `--gin.A.B=V` to `--gin_bindings=A.B = V`.

  Args:
    args: The command line.

  Returns:
    The command line that absl can parse.

  Raises:
    ValueError: if such an argument has no `=`.
  """

  def rewrite(arg: str) -> str:
    match = re.match(r"--?gin\.(.*)", arg, re.DOTALL)
    if not match:
      return arg
    name, equals, value = match[1].partition("=")
    if not equals:
      raise ValueError(f"Expected --gin.NAME=VALUE, got {arg}.")
    return f"--gin_bindings={name} = {value}"

  return [rewrite(arg) for arg in args]
