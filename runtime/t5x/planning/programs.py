"""The programs of a command, traced without its devices, weights or data."""

from collections.abc import Collection, Iterator, Mapping, Sequence
import contextlib
import dataclasses
import sys
from typing import Any

import jax
import jax.numpy as jnp

from t5x import gin_utils, partitioning, utils
from t5x.configuration import checks, reading, resolution
from t5x.configuration.client import clients
from t5x.input import datasets
from t5x.runs import evaluation, inference, initialization, training

# Lengths for commands without them, because no task is read: inputs of 512, and
# targets of 16 pieces, the most for most SuperGLUE tasks.
LENGTHS = {"inputs": 512, "targets": 16}
_PROGRAMS = {
  "train": training.train,
  "evaluate": evaluation.evaluate,
  "infer": inference.infer,
}
# Values of macros that the gin files may leave to the run's task or flags.
_OPEN = {"TASK_FEATURE_LENGTHS": str(LENGTHS), "TRAIN_STEPS_RELATIVE": "30000"}


@dataclasses.dataclass(frozen=True)
class Program:
  """One compiled program of a command.

  Attributes:
    name: "train", "evaluate", "infer" or "restore".
    traced: The result of `jax.jit(...).trace`.
    state: The shapes of the state among its arguments.
    steps: The number of times that the command runs it, if known.
    decode_steps: The greatest number of positions to decode; 0 if none.
  """

  name: str
  traced: Any
  state: Any
  steps: int | None
  decode_steps: int


@dataclasses.dataclass(frozen=True)
class Command:
  """A train, eval or infer command, configured for devices.

  Attributes:
    program: "train", "evaluate" or "infer".
    arguments: The arguments of its function.
    batch: Feature -> shape.
    initializer: The initializer of its state.
    state: The shapes and shardings of its state.
    opened: Macros that the command leaves open -> their values for the plan.
  """

  program: str
  arguments: Mapping[str, Any]
  batch: Mapping[str, jax.ShapeDtypeStruct]
  initializer: initialization.TrainStateInitializer
  state: Any
  opened: Collection[str]

  def programs(self, names: Sequence[str] = ()) -> Iterator[Program]:
    """Traces the command's programs; weights and batches are only shapes.

    Args:
      names: The programs to trace; all by default.

    Raises:
      ValueError: if the command has no such program.
    """
    arguments, state, batch = self.arguments, self.state, self.batch
    model, partitioner = arguments["model"], arguments["partitioner"]
    axes = self.initializer.train_state_axes
    decode = "infer" if self.program == "infer" else "evaluate"
    there = ["train"] if self.program == "train" else []
    there += [decode, "restore"]
    if unknown := set(names) - set(there):
      raise ValueError(
        f"Expected some of the command's programs {', '.join(there)}, got "
        f"{', '.join(sorted(unknown))}."
      )
    for name in (x for x in there if x in (names or there)):
      steps, positions = None, 0
      if name == "train":
        trainer = arguments["trainer_cls"](
          model=model,
          train_state=state,
          partitioner=partitioner,
          train_state_axes=axes,
          rng=jax.random.key(0),
        )
        trainer.check_batch_size(arguments["train_dataset_cfg"].batch_size)
        traced = trainer.trace_train_step(state, batch)
        steps = arguments.get("relative_steps")
      elif name == "restore":
        traced = self.initializer.create_opt_state.trace(state.params)
        steps = 1
      else:
        is_score = arguments.get("mode") == "score"
        function = model.score_batch if is_score else model.predict_batch
        step = utils.partition_infer_step(function, axes, partitioner)
        first = jax.ShapeDtypeStruct((), jnp.int32)
        traced = step.trace(state, batch, first)
        if not is_score:
          positions = batch["decoder_target_tokens"].shape[1]
      yield Program(name, traced, state, steps, positions)


@contextlib.contextmanager
def read_command(
  gin_files: Sequence[str],
  gin_bindings: Sequence[str],
  devices: Sequence[Any],
) -> Iterator[Command]:
  """Reads a train, eval or infer command for devices; traces nothing.

  Args:
    gin_files: The files of the command.
    gin_bindings: The bindings of the command.
    devices: JAX's descriptions of the devices.

  Yields:
    The command; its configuration is gin's inside the context.

  Raises:
    ValueError: if the files configure no run, or the devices do not fit.
  """
  paths = reading.search_paths()
  if not gin_files:
    raise ValueError("Expected the --gin_file flags of a command, got none.")
  read = resolution.Bindings(gin_files, paths=paths)
  program = next((x for x in _PROGRAMS if read.root(x) is not None), None)
  if program is None:
    raise ValueError(
      "None of the gin files configures a run: give the flags of a train, eval "
      "or infer command, with its --gin_file=gin/recipes/NAME.gin."
    )
  given = {x.label for text in gin_bindings for x in reading.from_text(text)}
  opened = left_open(read, given)
  # The client's stand-ins win over the files, and the command's values win over
  # the stand-ins, except for a prompt that is made from the checkpoint.
  texts = [f"{name} = {value}" for name, value in opened.items()]
  if "TASK_PREFIXES" in read.macros and "TASK_PREFIXES" not in given:
    # A prompt has as many rows as the task has parts.
    texts.append(f"TASK = {read.macros['TASK'].text}")
  texts += [x for x in gin_bindings if x.partition("=")[0].strip() != "PROMPT"]
  files = [*gin_files, *(x.stand_ins for x in clients() if x.stand_ins)]
  # Only the length would be read from the prompt's file.
  others = {"PROMPT_FILE"} if "PROMPT_LENGTH" in given else ()
  read = resolution.Bindings(files, texts, paths)
  checks.refuse(checks.missing(read, paths, others))
  for name, function in _PROGRAMS.items():
    # Gin files find the functions here.
    setattr(sys.modules["__main__"], name, function)
  with (
    partitioning.using_devices(devices),
    gin_utils.bound_arguments(_PROGRAMS[program], files, texts) as arguments,
  ):
    yield _command(program, arguments, opened)


def left_open(
  read: resolution.Bindings, given: Collection[str]
) -> dict[str, str]:
  """Returns the lengths and steps that a command leaves to its task or flags.

  Args:
    read: The bindings of the command's gin files.
    given: The names that its flags bind.

  Returns:
    Macro -> a value for a plan.
  """
  return {
    name: value
    for name, value in _OPEN.items()
    if name in read.macros
    and name not in given
    and not (name == "TRAIN_STEPS_RELATIVE" and "TRAIN_STEPS" in given)
    and isinstance(
      read.macros[name].value, reading.Macro | reading.Reference | None
    )
  }


def _command(
  program: str, arguments: Mapping[str, Any], opened: Collection[str]
) -> Command:
  is_training = program == "train"
  data = arguments["train_dataset_cfg" if is_training else "dataset_cfg"]
  model, partitioner = arguments["model"], arguments["partitioner"]
  partitioner.local_rows(data.batch_size)
  lengths = LENGTHS | dict(data.task_feature_lengths or {})
  shapes = datasets.batch_shapes(
    dataclasses.replace(data, task_feature_lengths=lengths),
    model.feature_converter_cls,
  )
  initializer = initialization.TrainStateInitializer(
    model.optimizer_def if is_training else None,
    model.get_initial_variables,
    shapes,
    partitioner,
  )
  restore = (
    arguments["checkpoint_cfg"].restore
    if is_training
    else arguments["restore_checkpoint_cfg"]
  )
  # Frozen parameters keep the dtype that they are read in.
  dtype = restore and restore.dtype
  state = initializer.train_state_shapes
  frozen = jax.tree.map(
    lambda x: jax.ShapeDtypeStruct(
      x.shape, x.dtype if x.dtype == jnp.int8 else dtype or x.dtype
    ),
    state.frozen,
  )
  state = jax.tree.map(
    lambda x, sharding: jax.ShapeDtypeStruct(
      x.shape, x.dtype, sharding=sharding
    ),
    state.replace(frozen=frozen),
    initializer.train_state_axes,
  )
  batch = {k: jax.ShapeDtypeStruct(x, jnp.int32) for k, x in shapes.items()}
  return Command(program, arguments, batch, initializer, state, opened)
