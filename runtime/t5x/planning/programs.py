"""The programs of a command, traced without its devices, weights or data."""

from collections.abc import (
  Callable,
  Generator,
  Iterator,
  Mapping,
  Sequence,
)
import contextlib
import dataclasses
import pathlib
import sys
from typing import Any

import jax
import jax.numpy as jnp

from t5x import gin_utils, partitioning, utils
from t5x.configuration import checks, reading, resolution
from t5x.runs import evaluation, inference, initialization, training

# Lengths for commands without them, as no task is read: [B, 512], and for most
# SuperGLUE tasks at most 16 pieces.
LENGTHS = {"inputs": 512, "targets": 16}
_TRAIN, _EVALUATE, _INFER = "train", "evaluate", "infer"
# Stand-ins for values that a command may leave open, as nothing runs. They are
# added where the files have the macro.
_OPEN = {
  "INITIAL_CHECKPOINT_PATH": "'nowhere'",
  "MODEL_DIR": "'nowhere'",
  "EVAL_OUTPUT_DIR": "'nowhere'",
  "INFER_OUTPUT_DIR": "'nowhere'",
  "TASK": "'none'",
  "TRAIN_FILE": "'nowhere'",
  "PROBES": "'none'",
  # The gin files may have values of these.
  "TASK_FEATURE_LENGTHS": str(LENGTHS),
  "TRAIN_STEPS_RELATIVE": "30000",
}
_OF_FILES = ("TASK_FEATURE_LENGTHS", "TRAIN_STEPS_RELATIVE")
_STAND_INS = pathlib.Path(__file__).with_name("stand_ins.gin")


@dataclasses.dataclass(frozen=True)
class Program:
  """One compiled program of a command.

  Attributes:
    name: "train", "evaluate", "infer" or "restore".
    traced: The result of `jax.jit(...).trace`.
    state: The shapes of the state among its arguments.
    steps: How often the command runs it, if it says so.
    decode_steps: The greatest number of positions to decode; 0 if none.
  """

  name: str
  traced: Any
  state: Any
  steps: int | None
  decode_steps: int


@dataclasses.dataclass(frozen=True)
class Command:
  """A command, configured for devices.

  Attributes:
    program: "train", "evaluate" or "infer".
    arguments: The arguments of its function.
    batch: Feature -> shape.
    initializer: The initializer of its state.
    state: The shapes and shardings of its state.
  """

  program: str
  arguments: Mapping[str, Any]
  batch: Mapping[str, jax.ShapeDtypeStruct]
  initializer: initialization.TrainStateInitializer
  state: Any

  @property
  def examples(self) -> int:
    """The examples of a batch on one device."""
    ways = self.arguments["partitioner"].mesh.shape["data"]
    return self.batch["encoder_input_tokens"].shape[0] // ways


def programs_of(
  gin_files: Sequence[str],
  gin_bindings: Sequence[str],
  devices: Sequence[Any],
  names: Sequence[str] = (),
) -> Generator[Program]:
  """Traces the programs of a train, eval or infer command.

  Args:
    gin_files: The files of the command.
    gin_bindings: The bindings of the command.
    devices: JAX's descriptions of the devices.
    names: The programs to trace; all by default.

  Yields:
    The programs. Weights and batches are only shapes.

  Raises:
    ValueError: if the files configure no run, the devices do not fit, or the
      command has no such program.
  """
  with read_command(gin_files, gin_bindings, devices) as command:
    yield from _traced(command, names)


@contextlib.contextmanager
def read_command(
  gin_files: Sequence[str],
  gin_bindings: Sequence[str],
  devices: Sequence[Any],
) -> Iterator[Command]:
  """Reads a command for devices and traces nothing; see `programs_of`."""
  paths = reading.search_paths()
  if not gin_files:
    raise ValueError("Expected the --gin_file flags of a command, got none.")
  files, bindings = list(gin_files), list(gin_bindings)
  macros = reading.macros(files, paths)
  if "PROMPT" in macros:  # It may be made of the checkpoint's embeddings.
    files.append("gin/prompts/random_uniform.gin")
    bindings = [b for b in bindings if b.partition("=")[0].strip() != "PROMPT"]
  given = _given(bindings)
  if "PROMPT_LENGTH" in given:
    given.add("PROMPT_FILE")  # Only its length would be read.
  if "TASK_PREFIXES" in set(macros) - given:
    given.add("TASK")  # A prompt has as many rows as the task has parts.
  opened = [
    f"{name} = {value}"
    for name, value in left_open(files, bindings).items()
    if name not in given
  ]
  found = resolution.Bindings(files, paths=paths)
  program = next(
    (x for x in (_TRAIN, _EVALUATE, _INFER) if found.root(x) is not None), None
  )
  if program is None:
    raise ValueError(
      "None of the gin files configures a run: give the flags of a train, eval "
      "or infer command, with its --gin_file=gin/recipes/NAME.gin."
    )
  checks.check_complete(files, given | set(_OPEN), paths)
  files.append(str(_STAND_INS))
  with (
    partitioning.using_devices(devices),
    _as_main() as programs,
    gin_utils.bound_arguments(
      programs[program], files, [*opened, *bindings]
    ) as arguments,
  ):
    yield _command(program, arguments)


def _given(bindings: Sequence[str]) -> set[str]:
  """Returns the names that flags bind."""
  given = {b.partition("=")[0].strip() for b in bindings}
  if "TRAIN_STEPS" in given:
    given.add("TRAIN_STEPS_RELATIVE")
  return given


def left_open(
  gin_files: Sequence[str], gin_bindings: Sequence[str]
) -> dict[str, str]:
  """Returns macros that no flag binds, with stand-ins for their values.

  Lengths and steps are among them only if the gin files leave them to the run's
  task or flags.

  Raises:
    ValueError: if a gin file is missing or not valid gin syntax.
  """
  macros = reading.macros(gin_files, reading.search_paths())
  given = _given(gin_bindings)
  return {
    name: value
    for name, value in _OPEN.items()
    if name in macros
    and name not in given
    and not (name in _OF_FILES and _is_literal(macros[name].text))
  }


def _is_literal(value: str) -> bool:
  """Returns whether a macro's value is neither a reference nor None."""
  return value != "None" and not value.startswith(("@", "%"))


@contextlib.contextmanager
def _as_main() -> Iterator[dict[str, Callable[..., Any]]]:
  """Puts the functions that gin files bind on `__main__`."""
  main: Any = sys.modules["__main__"]
  programs = {
    _TRAIN: training.train,
    _EVALUATE: evaluation.evaluate,
    _INFER: inference.infer,
  }
  before = {name: vars(main).get(name) for name in programs}
  for name, function in programs.items():
    setattr(main, name, function)
  try:
    yield programs
  finally:
    for name, function in before.items():
      if function is None:
        delattr(main, name)
      else:
        setattr(main, name, function)


def _command(program: str, arguments: Mapping[str, Any]) -> Command:
  is_training = program == _TRAIN
  data = arguments["train_dataset_cfg" if is_training else "dataset_cfg"]
  model, partitioner = arguments["model"], arguments["partitioner"]
  batch = _batch(data, partitioner)
  initializer = initialization.TrainStateInitializer(
    model.optimizer_def if is_training else None,
    model.get_initial_variables,
    {name: x.shape for name, x in batch.items()},
    partitioner,
  )
  restore = (
    arguments["checkpoint_cfg"].restore
    if is_training
    else arguments["restore_checkpoint_cfg"]
  )
  state = _state(initializer, restore and restore.dtype)
  return Command(program, arguments, batch, initializer, state)


def _traced(command: Command, names: Sequence[str]) -> Iterator[Program]:
  arguments, state, batch = command.arguments, command.state, command.batch
  model, partitioner = arguments["model"], arguments["partitioner"]
  axes = command.initializer.train_state_axes
  inference = "infer" if command.program == _INFER else "evaluate"
  there = ["train"] if command.program == _TRAIN else []
  there += [inference, "restore"]
  if unknown := set(names) - set(there):
    raise ValueError(
      f"Expected some of the command's programs {', '.join(there)}, got "
      f"{', '.join(sorted(unknown))}."
    )
  if command.program == _TRAIN and "train" in (names or ["train"]):
    trainer = arguments["trainer_cls"](
      model=model,
      train_state=state,
      partitioner=partitioner,
      train_state_axes=axes,
      rng=jax.random.key(0),
    )
    traced = trainer.trace_train_step(state, batch)
    yield Program("train", traced, state, arguments.get("relative_steps"), 0)
  if inference in (names or [inference]):
    is_score = arguments.get("mode") == "score"
    step = utils.partition_infer_step(
      model.score_batch if is_score else model.predict_batch, axes, partitioner
    )
    first = jax.ShapeDtypeStruct((), jnp.int32)
    traced = step.trace(state, batch, first)
    positions = 0 if is_score else batch["decoder_target_tokens"].shape[1]
    yield Program(inference, traced, state, None, positions)
  if "restore" in (names or ["restore"]):
    traced = command.initializer.create_opt_state.trace(state.params)
    yield Program("restore", traced, state, 1, 0)


def _batch(
  data: utils.DatasetConfig, partitioner: partitioning.PjitPartitioner
) -> dict[str, jax.ShapeDtypeStruct]:
  """Returns the shapes that the feature converter gives to a batch."""
  lengths = {**LENGTHS, **(data.task_feature_lengths or {})}
  rows = partitioner.mesh.shape["data"]
  if data.batch_size % rows:
    raise ValueError(
      f"BATCH_SIZE={data.batch_size} is not a multiple of the {rows} parts of "
      "the mesh that divide the batch: raise "
      "partitioning.PjitPartitioner.num_partitions."
    )
  features = {
    "encoder_input_tokens": "inputs",
    "decoder_input_tokens": "targets",
    "decoder_target_tokens": "targets",
    "decoder_loss_weights": "targets",
  }
  if data.pack:
    for side, feature in (("encoder", "inputs"), ("decoder", "targets")):
      features |= {f"{side}_segment_ids": feature}
      features |= {f"{side}_positions": feature}
  return {
    name: jax.ShapeDtypeStruct((data.batch_size, lengths[feature]), jnp.int32)
    for name, feature in features.items()
  }


def _state(
  initializer: initialization.TrainStateInitializer, dtype: str | None
) -> Any:
  """Returns the shapes of a restored state; the frozen part has `dtype`."""
  shapes = initializer.train_state_shapes

  def stored(x: Any) -> Any:
    return jax.ShapeDtypeStruct(x.shape, dtype or x.dtype)

  shapes = shapes.replace(frozen=jax.tree.map(stored, shapes.frozen))
  return jax.tree.map(
    lambda x, sharding: jax.ShapeDtypeStruct(
      x.shape, x.dtype, sharding=sharding
    ),
    shapes,
    initializer.train_state_axes,
  )
