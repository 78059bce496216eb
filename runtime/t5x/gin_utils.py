"""Command line and gin configuration of `train`, `eval` and `infer`."""

from collections.abc import Callable, Iterator, Mapping, Sequence
import contextlib
import os
import re
import sys
import threading
import tokenize
from typing import Any, TypeVar

from absl import app, flags, logging
import gin

from t5x import clusters
from t5x.configuration import (
  gin_macros,
  gin_resolution,
  gin_text,
  gin_unused,
  gin_values,
  run_configuration,
)
from t5x.configuration.client import clients
from t5x.files import safe_files

_T = TypeVar("_T")
_ONE_CONFIGURATION = threading.RLock()

# What gin appends to messages: the call stack, or the whole configuration.
_GIN_NOTES = re.compile(
  r"\n\s*In call to configurable .*| in config string:.*", re.DOTALL
)


def define_flags(values: flags.FlagValues = flags.FLAGS) -> None:
  """Defines the flags that the three entry points share, in `values`."""

  def define(kind: str, name: str, default: Any, about: str) -> None:
    getattr(flags, f"DEFINE_{kind}")(name, default, about, flag_values=values)

  define("multi_string", "gin_file", [], "A gin file; later ones win.")
  define(
    "multi_string",
    "gin_bindings",
    [],
    "A gin binding, 'A.B = V'. --gin.A.B=V says the same. Strings are quoted: "
    "--gin.X=\"'text'\".",
  )
  define(
    "list",
    "gin_search_paths",
    ["."],
    "Folders in which gin files are looked for, in order. The folders of the "
    "installed packages follow.",
  )
  define(
    "string",
    "tfds_data_dir",
    None,
    "Where TFDS data lies; overrides every task's own.",
  )
  define(
    "list",
    "seqio_additional_cache_dirs",
    [],
    "Folders with cached seqio tasks.",
  )
  define(
    "bool",
    "multiprocess_gpu",
    None,
    "Start jax.distributed, with the flags below where processes do not find "
    "each other. By default: on TPU VMs, under srun, and if a flag is given.",
  )
  define("string", "coordinator_address", None, "host:port of process 0.")
  define("integer", "process_count", None, "Number of processes.")
  define("integer", "process_index", None, "Index of this process.")
  define(
    "integer",
    "initialization_timeout",
    None,
    "Seconds to wait for all processes.",
  )
  define("bool", "dry_run", False, "Parse the configuration, then stop.")
  define(
    "bool",
    "traceback",
    False,
    "Show where an error was raised, not its message only.",
  )


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


def search_paths(given: Sequence[str] = (".",)) -> list[str]:
  """Returns the folders for gin files: those given, then the packages'."""
  return list(dict.fromkeys([*given, *(x.gin_path for x in clients())]))


def is_required(macro: str) -> bool:
  """Whether the configuration leaves a macro's value to the user."""
  return repr(gin.query_parameter(f"%{macro}")) == "%gin.REQUIRED"


def parse_gin_flags(
  gin_search_paths: Sequence[str],
  gin_files: Sequence[str],
  gin_bindings: Sequence[str],
  skip_unknown: bool = False,
  finalize_config: bool = True,
) -> None:
  """Parses the configuration and locks it.

  Args:
    gin_search_paths: Folders for gin files and their includes.
    gin_files: Files, in order; later ones win.
    gin_bindings: Overrides, which win over the files.
    skip_unknown: Whether bindings of unknown names are ignored.
    finalize_config: Whether to check for missing values and lock.

  Raises:
    ValueError: if a file is missing or no gin, if it or a binding names
      nothing, or if a required macro has no value (all of them are listed).
  """
  # gin's own list begins with the working directory, and only grows.
  gin.config._LOCATION_PREFIXES[:] = list(gin_search_paths) or [""]
  macros = gin_text.macros_of(gin_files, gin_search_paths)
  if not skip_unknown:
    gin_unused.refuse_unknown_macros(gin_bindings, macros)
  # gin logs an error for every folder that it looks into in vain.
  verbosity = logging.get_verbosity()
  logging.set_verbosity(logging.FATAL)
  try:
    gin.parse_config_files_and_bindings(
      list(gin_files),
      list(gin_bindings),
      skip_unknown=skip_unknown,
      finalize_config=False,
    )
  except (SyntaxError, tokenize.TokenError) as e:  # The files were parsed.
    given = (getattr(e, "text", None) or " ".join(gin_bindings)).strip()
    raise ValueError(
      f"{given} is no gin literal. Strings are quoted: --gin.X=\"'text'\"."
    ) from e
  except (AttributeError, NameError) as e:  # What is named is not there.
    raise ValueError(" ".join(str(e).split())) from e
  finally:
    logging.set_verbosity(verbosity)
  if finalize_config:
    given = {binding.partition("=")[0].strip() for binding in gin_bindings}
    missing = gin_macros.undefined(gin_files, gin_search_paths) - given
    missing |= {name for name in macros if is_required(name)}
    if missing:
      raise ValueError(
        gin_macros.what_gives(missing, gin_files, gin_search_paths)
      )
    gin.finalize()


def configuration(program: str) -> run_configuration.RunConfiguration:
  """Returns what gin was told for "train", "eval" or "infer"."""
  return run_configuration.of_gin(program, gin.config_str())


@contextlib.contextmanager
def built(
  target: Callable[..., _T],
  gin_files: Sequence[str],
  gin_bindings: Sequence[str],
) -> Iterator[_T]:
  """Calls `target` as a configuration says, and forgets the configuration.

  gin has one configuration in a program. This one holds inside of the context,
  for modules that are made when the result is called; other threads wait for
  its end. Then, the one from before holds again.

  Args:
    target: A function or class, whose parameters may be bound.
    gin_files: Files, in order; later ones win. Macros that `target` does not
      use may lack a value.
    gin_bindings: Overrides, which win over the files.

  Yields:
    What `target` returns.

  Raises:
    ValueError: as `parse_gin_flags` does.
  """
  with _configured(gin_files, gin_bindings):
    yield gin.get_configurable(target)()


@contextlib.contextmanager
def bound_arguments(
  fn: Callable[..., Any],
  gin_files: Sequence[str],
  gin_bindings: Sequence[str],
) -> Iterator[dict[str, Any]]:
  """Yields what a configuration calls `fn` with, as `built` would."""
  with _configured(gin_files, gin_bindings):
    yield gin.get_bindings(fn)


@contextlib.contextmanager
def _configured(
  gin_files: Sequence[str], gin_bindings: Sequence[str]
) -> Iterator[None]:
  with _ONE_CONFIGURATION:
    before, was_locked = gin.config_str(), gin.config_is_locked()
    gin.clear_config()
    try:
      parse_gin_flags(
        search_paths(), gin_files, gin_bindings, finalize_config=False
      )
      yield
    finally:
      gin.clear_config()
      gin.parse_config(before)
      if was_locked:
        gin.finalize()


def summarize_gin_config(
  model_dir: str, summary_writer: Any | None, step: int
) -> None:
  """Writes the operative configuration to `model_dir/config.gin`.

  Args:
    model_dir: An existing folder.
    summary_writer: An `event_file.EventFile`, which gets the text too, or None.
    step: The step it is logged at.
  """
  import jax  # It takes a second: not for --help.

  if jax.process_index():
    return
  text = gin.operative_config_str()
  safe_files.write(os.path.join(model_dir, "config.gin"), text)
  if summary_writer is not None:
    summary_writer.add_text("config", gin.markdown(text), step)


def _start(
  fn: Callable[..., Any], run: Callable[[Callable[..., Any]], None]
) -> None:
  # They take seconds: not for --help.
  import jax
  import seqio

  from t5x.runs import compilation_cache

  values = flags.FLAGS
  given = (
    values.coordinator_address,
    values.process_count,
    values.process_index,
  )
  is_one_of_several = values.multiprocess_gpu
  if is_one_of_several is None:
    is_one_of_several = given != (None, None, None) or clusters.is_in_one()
  if is_one_of_several:
    jax.distributed.initialize(
      *given, initialization_timeout=values.initialization_timeout or 300
    )
  if values.tfds_data_dir:
    seqio.set_tfds_data_dir_override(values.tfds_data_dir)
  seqio.add_global_cache_dirs(values.seqio_additional_cache_dirs)
  configured = gin.configurable(fn)
  parse_gin_flags(
    search_paths(values.gin_search_paths), values.gin_file, values.gin_bindings
  )
  bindings = gin_resolution.Bindings(bindings=[gin.config_str()])
  if bindings.root(fn.__name__) is None:
    raise ValueError(
      "None of the gin files configures a run. Name a recipe, "
      "--gin_file=gin/recipes/NAME.gin, or a run, "
      "--gin_file=gin/runs/NAME.gin; --help lists them."
    )
  gin_unused.check(bindings, fn.__name__, values.gin_bindings)
  gin_values.check(gin_resolution.resolve(bindings, fn.__name__), fn)
  if values.dry_run:
    print(gin.config_str())
    return
  compilation_cache.enable()
  run(configured)


def closing_notes(
  model_dir: str, best: Mapping[str, Any] | None
) -> Iterator[str]:
  """Yields what installed packages say of a run that has ended.

  Args:
    model_dir: The run's folder.
    best: Its best evaluation, {"step", "score"}, or None.
  """
  values = flags.FLAGS
  data = values.tfds_data_dir
  caches = ",".join(values.seqio_additional_cache_dirs)
  others = [f"--tfds_data_dir={data}"] if data else []
  others += [f"--seqio_additional_cache_dirs={caches}"] if caches else []
  paths = values.gin_search_paths
  others += [f"--gin_search_paths={','.join(paths)}"] if paths != ["."] else []
  for client in clients():
    if client.next_steps is not None:
      yield client.next_steps(
        model_dir,
        best,
        values.gin_file,
        values.gin_bindings,
        others,
        search_paths(paths),
      )


def run_entry_point(
  fn: Callable[..., Any], run: Callable[[Callable[..., Any]], None]
) -> None:
  """Runs a function as a program; gin binds the function's parameters.

  A wrong configuration, or a loss that is no number, ends it with status 1 and
  one line, which says what was expected; --traceback shows the rest.

  Args:
    fn: The function, registered with gin under its own name.
    run: The rest of the program: it is given the bound function, to call it.
  """
  define_flags()

  def main(argv: Sequence[str]) -> None:
    if not flags.FLAGS["verbosity"].present:
      logging.set_verbosity(logging.WARNING)
    if len(argv) > 1:
      raise app.UsageError(f"Unexpected arguments: {' '.join(argv[1:])}")
    try:
      _start(fn, run)
    except (ValueError, OSError, ImportError, FloatingPointError) as e:
      if flags.FLAGS.traceback:
        raise
      print(f"Error: {_GIN_NOTES.sub('', str(e))}", file=sys.stderr)
      sys.exit(1)

  try:
    args = rewrite_gin_args(sys.argv)
  except ValueError as e:
    print(f"Error: {e}", file=sys.stderr)
    sys.exit(1)
  app.run(main, argv=args)
