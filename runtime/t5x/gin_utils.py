"""Command line and gin configuration of `train`, `eval` and `infer`."""

from collections.abc import Callable, Iterator, Mapping, Sequence
import contextlib
import gc
import logging as py_logging
import os
import re
import sys
import threading
from typing import Any

from absl import app, flags, logging
import gin

from t5x.configuration import (
  checks,
  command_flags,
  identity,
  reading,
  resolution,
)
from t5x.configuration.client import clients
from t5x.configuration.command_flags import define_flags, rewrite_gin_args
from t5x.files import safe_files

_ONE_CONFIGURATION = threading.RLock()
# Text that gin appends to messages: the call stack, or the configuration.
_GIN_NOTES = re.compile(
  r"\n\s*In call to configurable .*| in config string:.*", re.DOTALL
)
# Errors that are shown as one line, and the remedy when a device's memory is
# full.
_EXPECTED = (ValueError, OSError, ImportError, FloatingPointError)
_FULL = (
  " Give a smaller BATCH_SIZE or, in training, NUM_MICROBATCHES; prompt-tuning "
  "plan shows the memory that a command needs."
)


def parse_gin_flags(
  gin_search_paths: Sequence[str],
  gin_files: Sequence[str],
  gin_bindings: Sequence[str],
  finalize_config: bool = True,
) -> None:
  """Parses the configuration and locks it.

  Args:
    gin_search_paths: Folders for gin files and their includes.
    gin_files: Files, in order; later ones win.
    gin_bindings: Overrides, which win over the files.
    finalize_config: Whether to check for missing values and lock.

  Raises:
    ValueError: if a file is missing or not valid gin syntax, if it or a binding
      names something that does not exist, or if required macros have no value
      (all of them are listed).
  """
  # gin can only append to its list, and searches the working directory first.
  gin.config._LOCATION_PREFIXES[:] = list(gin_search_paths) or [""]
  read = resolution.Bindings(gin_files, paths=gin_search_paths)
  checks.refuse(checks.unknown(gin_bindings, read.macros, gin_search_paths))
  # gin logs an error for every folder that lacks a file.
  disabled = py_logging.root.manager.disable
  py_logging.disable()
  try:
    gin.parse_config_files_and_bindings(
      list(gin_files), list(gin_bindings), finalize_config=False
    )
  except (AttributeError, NameError, ValueError) as e:
    text = " ".join(str(e).split())  # It quotes the name that does not exist.
    if "No configurable matching" in text:
      remedy = (
        " Begin the gin file with `from __gin__ import dynamic_registration`, "
        "and import the module of that name."
      )
      if "In bindings string" in text:
        remedy = checks.unregistered(text, gin_search_paths)
      text += f".{remedy}"
    raise ValueError(text) from e
  finally:
    py_logging.disable(disabled)
  if finalize_config:
    read = resolution.Bindings(texts=gin_bindings, start=read)
    checks.refuse(checks.missing(read, gin_search_paths))
    gin.finalize()


def config_text() -> str:
  """Returns gin's whole configuration, as parsed so far."""
  return gin.config_str()


def configuration(program: str) -> identity.RunConfiguration:
  """Returns gin's configuration of "train", "eval" or "infer"."""
  bindings = resolution.Bindings(texts=[config_text()])
  return identity.RunConfiguration.from_bindings(program, bindings)


@contextlib.contextmanager
def bound_arguments(
  fn: Callable[..., Any],
  gin_files: Sequence[str],
  gin_bindings: Sequence[str],
) -> Iterator[dict[str, Any]]:
  """Reads a configuration, and forgets it at the end of the context.

  A program has one gin configuration. This one holds inside the context, also
  for modules that are made when the function is called; other threads wait
  until the context ends. Then the previous configuration holds again.

  Args:
    fn: A function or class, whose parameters may be bound.
    gin_files: The files, in order; later ones win. Macros that `fn` does not
      use may lack a value.
    gin_bindings: Overrides, which win over the files.

  Yields:
    The arguments that gin calls `fn` with.

  Raises:
    ValueError: as for `parse_gin_flags`.
  """
  with _ONE_CONFIGURATION:
    before, was_locked = gin.config_str(), gin.config_is_locked()
    gin.clear_config()
    try:
      parse_gin_flags(
        reading.search_paths(), gin_files, gin_bindings, finalize_config=False
      )
      yield gin.get_bindings(fn)
    except ValueError as e:
      raise ValueError(_GIN_NOTES.sub("", str(e))) from e
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
    summary_writer: A `metric_log.MetricLog`, which gets the text too, or None.
    step: The step to log it at.
  """
  import jax  # Not at the top: it takes a second, which --help can spare.

  if jax.process_index():
    return
  text = gin.operative_config_str()
  safe_files.write(os.path.join(model_dir, "config.gin"), text)
  if summary_writer is not None:
    summary_writer.add_text("config", gin.markdown(text), step)


def _start(
  fn: Callable[..., Any], run: Callable[[Callable[..., Any]], None]
) -> None:
  # Not at the top: they take seconds, which --help can spare.
  import seqio

  from t5x import multihost
  from t5x.files import compilation_cache

  values = flags.FLAGS
  given = (
    values.coordinator_address,
    values.process_count,
    values.process_index,
  )
  is_one_of_several = values.multiprocess_gpu
  if is_one_of_several is None:
    is_one_of_several = (
      given != (None, None, None) or multihost.is_one_of_several()
    )
  if is_one_of_several:
    multihost.initialize(*given, timeout=values.initialization_timeout or 300)
  if values.tfds_data_dir:
    seqio.set_tfds_data_dir_override(values.tfds_data_dir)
  seqio.add_global_cache_dirs(values.seqio_additional_cache_dirs)
  configured = gin.configurable(fn)
  parse_gin_flags(
    reading.search_paths(values.gin_search_paths),
    values.gin_file,
    values.gin_bindings,
  )
  bindings = resolution.Bindings(texts=[config_text()])
  given = values.gin_bindings
  for label, _ in checks.without_effect(bindings, fn.__name__, given):
    logging.warning("Nothing uses %s here: binding it has no effect.", label)
  if values.dry_run:
    print(gin.config_str())
    return
  compilation_cache.enable()
  run(configured)


def next_steps(model_dir: str, best: Mapping[str, Any] | None) -> Iterator[str]:
  """Yields the next steps that installed packages suggest after a run.

  Args:
    model_dir: The run's folder.
    best: The best evaluation, {"step", "score"}, or None.
  """
  values = flags.FLAGS
  kept = ("tfds_data_dir", "seqio_additional_cache_dirs", "gin_search_paths")
  others = [values[x].serialize() for x in kept if values[x].present]
  for client in clients():
    if client.next_steps is not None:
      yield client.next_steps(
        model_dir,
        best,
        values.gin_file,
        values.gin_bindings,
        others,
        reading.search_paths(values.gin_search_paths),
      )


def run_entry_point(
  fn: Callable[..., Any], run: Callable[[Callable[..., Any]], None]
) -> None:
  """Runs a function as a program; gin binds the function's parameters.

  After a wrong configuration, a NaN loss or a full device, the program prints
  one line that says how to fix it, and exits with status 1; --traceback shows
  the rest.

  Args:
    fn: The function, registered with gin under its own name.
    run: The rest of the program, which gets the bound function and calls it.
  """
  define_flags()

  def main(argv: Sequence[str]) -> None:
    if not flags.FLAGS["verbosity"].present:
      logging.set_verbosity(logging.WARNING)
    del argv  # `preflight` has refused all words but flags.
    gc.freeze()  # Modules stay, so the collector need not scan them.
    try:
      _start(fn, run)
    except (*_EXPECTED, RuntimeError) as e:
      text = _GIN_NOTES.sub("", str(e))
      if is_full := text.startswith("RESOURCE_EXHAUSTED"):  # From XLA.
        text = text.partition("\n")[0] + _FULL
      if flags.FLAGS.traceback or not (is_full or isinstance(e, _EXPECTED)):
        raise
      command_flags.tell_others()
      print(f"Error: {text}", file=sys.stderr)
      command_flags.leave(1)
      sys.exit(1)
    except SystemExit:
      command_flags.leave(0)  # A signal stops all of the processes.
      raise
    command_flags.leave(0)

  app.run(main, argv=rewrite_gin_args(sys.argv))
