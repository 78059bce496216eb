"""Tries settings of a command, those that cost least first."""

from collections.abc import Iterable, Iterator, Mapping, Sequence
import contextlib
import dataclasses
import itertools
import time
from typing import Any, NamedTuple

from t5x.configuration import reading
from t5x.planning import measures, programs, targets

_PARTITIONS = "partitioning.PjitPartitioner.num_partitions"
# Macro -> other names of it. What a command sets is left alone.
_NAMES = {
  "network.T5Config.remat": (),
  "NUM_MICROBATCHES": (),
  "NUM_PARTITIONS": (_PARTITIONS,),
  "PARAMETER_DTYPE": (),
}


@dataclasses.dataclass(frozen=True, order=True)
class Settings:
  """What is tried; in this order, what costs least comes first.

  Computing again costs a third of a step, and parts of a batch little, but
  not nothing; the more devices share a model, the more they exchange. None is
  what the command says.
  """

  remat: bool | None
  microbatches: int | None
  partitions: int | None
  dtype: str | None

  @property
  def bindings(self) -> list[str]:
    """As gin's."""
    parts = self.microbatches
    values = (
      self.remat,
      None if parts is None else str(parts if parts > 1 else None),
      self.partitions,
      self.dtype and f"'{self.dtype}'",
    )
    return [
      f"{name} = {value}"
      for name, value in zip(_NAMES, values, strict=True)
      if value is not None
    ]

  def __str__(self) -> str:
    return ", ".join(x.removeprefix("network.T5Config.") for x in self.bindings)


@dataclasses.dataclass(frozen=True)
class Trial:
  """What became of settings.

  Attributes:
    settings: Which.
    found: What their program takes; None if it was not compiled.
    why: It was not.
  """

  settings: Settings
  found: measures.Measures | None
  why: str = ""


class Held(NamedTuple):
  """What settings leave a device with, before anything is traced.

  Attributes:
    state: Bytes of weights and optimizer.
    examples: Of a batch.
    why: There can be no such thing, or "".
  """

  state: int
  examples: int
  why: str = ""


_Held = Mapping[tuple[int | None, str | None], Held]


def candidates(
  devices: int, gin_files: Sequence[str], gin_bindings: Sequence[str]
) -> list[Settings]:
  """Returns settings to try, those that cost least first.

  Args:
    devices: How many there are.
    gin_files: Of the command; what they do not know is left alone.
    gin_bindings: Of the command; what they set is left alone.
  """
  macros = reading.macros(gin_files, reading.search_paths())
  given = {b.partition("=")[0].strip() for b in gin_bindings}
  splits = [2**i for i in range(devices.bit_length()) if devices >= 2**i]
  values: Sequence[Sequence[Any]] = (
    [False, True],
    [1, 4],
    splits,
    ["bfloat16", "float32"],
  )
  return sorted(
    Settings(*choice)
    for choice in itertools.product(
      *(
        some
        if not given & {name, *others} and ("." in name or name in macros)
        else [None]
        for (name, others), some in zip(_NAMES.items(), values, strict=True)
      )
    )
  )


def search(
  topology: str,
  gin_files: Sequence[str],
  gin_bindings: Sequence[str],
  tries: int,
  seconds: float,
) -> Iterator[Trial]:
  """Tries settings of a command's first program: of training, its step.

  Args:
    topology: A target's name.
    gin_files: Of the command.
    gin_bindings: Of the command.
    tries: Programs that are compiled at most.
    seconds: After so many no other is begun.

  Yields:
    What became of all settings, in their order. Those that cannot fit, by
    their weights alone or by what others took, are not compiled, and neither
    are those that cost more than others that fit.
  """
  target = targets.find(topology)
  number = len(target.devices)
  end = time.monotonic() + seconds
  done: list[Trial] = []
  held: dict[tuple[int | None, str | None], Held] = {}
  for settings in candidates(number, gin_files, gin_bindings):
    bindings = [*gin_bindings, *settings.bindings]
    key = (settings.partitions, settings.dtype)
    if key not in held:
      held[key] = _hold(gin_files, bindings, target)
    why = needless(settings, held, done, target.memory)
    if not why and len(done) == tries:
      why = f"{tries} others were compiled"
    if not why and time.monotonic() > end:
      why = f"{seconds / 60:.0f} minutes were over"
    if why:
      yield Trial(settings, None, why)
      continue
    try:
      with contextlib.closing(
        programs.programs_of(gin_files, bindings, target.devices)
      ) as found:
        done.append(Trial(settings, measures.measure(next(found), target)))
    except ValueError as e:
      yield Trial(settings, None, str(e))
    else:
      yield done[-1]


def best(trials: Iterable[Trial]) -> list[Trial]:
  """Returns those that fit, the lowest bound and then the least traffic first.

  Of two that differ in nothing else, that with parts of a batch comes last.
  """

  def cost(trial: Trial) -> tuple[float, int, Settings]:
    assert trial.found is not None, "only compiled programs fit"
    exchanged = sum(size for _, size in trial.found.collectives.values())
    return trial.found.seconds_bound or 0.0, exchanged, trial.settings

  return sorted((x for x in trials if x.found and x.found.fits), key=cost)


def _hold(
  gin_files: Sequence[str], bindings: Sequence[str], target: targets.Target
) -> Held:
  """Reads a command for devices."""
  try:
    with programs.read_command(gin_files, bindings, target.devices) as command:
      examples = command.batch_size // command.data_ways
      return Held(measures.bytes_of(command.state), examples)
  except ValueError as e:
    return Held(0, 0, str(e))


def needless(
  settings: Settings, held: _Held, done: Sequence[Trial], memory: float
) -> str:
  """Returns why settings need not be compiled, or "".

  Args:
    settings: Which.
    held: What partitions and dtypes leave a device with.
    done: What was compiled.
    memory: Of a device, bytes.
  """
  own = held[settings.partitions, settings.dtype]
  parts = settings.microbatches or 1
  if own.why:
    return own.why
  if own.examples % parts:
    return "they divide no batch"
  if own.state > memory:
    return "their weights alone are too much"
  for trial in done:
    other, found = trial.settings, trial.found
    assert found is not None, "it was compiled"
    if not _is_no_dearer(other, settings):
      continue
    if found.fits and (
      other.dtype == settings.dtype
      # Nothing is frozen.
      or own == held.get((settings.partitions, other.dtype))
    ):
      return "others that fit cost less"
    # At the best, activations are divided like the batch. Devices that share a
    # model have more examples each: more of them do not make these less. Copies
    # of weights and their gradients may be in what is subtracted.
    if not found.fits and found.peak and other.remat == settings.remat:
      activations = found.peak - 2 * found.weights - found.optimizer
      least = own.state + activations * (other.microbatches or 1) / parts
      if least > memory:
        return "others of theirs took too much"
  return ""


def _is_no_dearer(one: Settings, other: Settings) -> bool:
  """Whether settings cost no more, in each of their parts but the dtype."""
  return (
    (one.remat or False) <= (other.remat or False)
    and (one.microbatches or 1) <= (other.microbatches or 1)
    and (one.partitions or 1) <= (other.partitions or 1)
  )
