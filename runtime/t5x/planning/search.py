"""A search for settings with which a command fits, the cheapest first."""

from collections.abc import Iterable, Iterator, Mapping, Sequence
import contextlib
import dataclasses
import itertools
import time
from typing import Any, NamedTuple

from t5x.configuration import reading
from t5x.planning import costs, programs, targets

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
  """Settings to try, ordered by cost.

  Rematerialisation costs a third of a step; microbatches cost little, but not
  nothing; the more devices share a model, the more they exchange. None leaves
  a setting to the command.
  """

  remat: bool | None
  microbatches: int | None
  partitions: int | None
  dtype: str | None

  @property
  def bindings(self) -> list[str]:
    """The settings as gin bindings."""
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
  """The outcome for some settings.

  Attributes:
    settings: The settings.
    found: The cost of their program; None if it was not compiled.
    skip_reason: Why it was not compiled, or "".
  """

  settings: Settings
  found: costs.CostReport | None
  skip_reason: str = ""


class Share(NamedTuple):
  """One device's share of a command, known before anything is traced.

  Attributes:
    state: Bytes of weights and optimizer state.
    examples: Examples of a batch.
    problem: Why the command cannot run with these settings, or "".
  """

  state: int
  examples: int
  problem: str = ""


_Shares = Mapping[tuple[int | None, str | None], Share]


def candidates(
  devices: int, gin_files: Sequence[str], gin_bindings: Sequence[str]
) -> list[Settings]:
  """Returns settings to try, the cheapest first.

  Args:
    devices: The number of devices.
    gin_files: The files of the command; settings that they lack are left alone.
    gin_bindings: The bindings of the command, which are left alone.
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
    gin_files: The files of the command.
    gin_bindings: The bindings of the command.
    tries: The greatest number of programs to compile.
    seconds: The time after which no other compilation begins.

  Yields:
    The outcome for each of the settings, in order. Settings are not compiled
    if they cannot fit, judging by their weights or by others that were
    compiled, or if they cost more than others that fit.
  """
  target = targets.find(topology)
  number = len(target.devices)
  end = time.monotonic() + seconds
  done: list[Trial] = []
  shares: dict[tuple[int | None, str | None], Share] = {}
  for settings in candidates(number, gin_files, gin_bindings):
    bindings = [*gin_bindings, *settings.bindings]
    key = (settings.partitions, settings.dtype)
    if key not in shares:
      shares[key] = _share(gin_files, bindings, target)
    reason = skip_reason(settings, shares, done, target.memory)
    if not reason and len(done) == tries:
      reason = f"{tries} others were compiled"
    if not reason and time.monotonic() > end:
      reason = f"{seconds / 60:.0f} minutes were over"
    if reason:
      yield Trial(settings, None, reason)
      continue
    try:
      with contextlib.closing(
        programs.programs_of(gin_files, bindings, target.devices)
      ) as found:
        done.append(Trial(settings, costs.estimate(next(found), target)))
    except ValueError as e:
      yield Trial(settings, None, str(e))
    else:
      yield done[-1]


def best(trials: Iterable[Trial]) -> list[Trial]:
  """Returns the trials that fit: lowest bound first, then least traffic.

  Of two that differ in nothing else, the one with microbatches comes last.
  """

  def cost(trial: Trial) -> tuple[float, int, Settings]:
    assert trial.found is not None, "only compiled programs fit"
    exchanged = sum(size for _, size in trial.found.collectives.values())
    return trial.found.seconds_bound or 0.0, exchanged, trial.settings

  return sorted((x for x in trials if x.found and x.found.fits), key=cost)


def _share(
  gin_files: Sequence[str], bindings: Sequence[str], target: targets.Target
) -> Share:
  """Reads a command for a target."""
  try:
    with programs.read_command(gin_files, bindings, target.devices) as command:
      return Share(costs.bytes_of(command.state), command.examples)
  except ValueError as e:
    return Share(0, 0, str(e))


def skip_reason(
  settings: Settings, shares: _Shares, done: Sequence[Trial], memory: float
) -> str:
  """Returns why settings need not be compiled, or "".

  Args:
    settings: The settings.
    shares: A device's share of the command, by partitions and dtype.
    done: The compiled trials.
    memory: The memory of a device, in bytes.
  """
  own = shares[settings.partitions, settings.dtype]
  parts = settings.microbatches or 1
  if own.problem:
    return own.problem
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
      or own == shares.get((settings.partitions, other.dtype))
    ):
      return "others that fit cost less"
    # At best, microbatches divide the activations. Sharing a model among more
    # devices does not: each then has more examples. The peak may include copies
    # of the weights and gradients, hence twice the weights.
    if not found.fits and found.peak and other.remat == settings.remat:
      activations = found.peak - 2 * found.weights - found.optimizer
      least = own.state + activations * (other.microbatches or 1) / parts
      if least > memory:
        return "others of theirs took too much"
  return ""


def _is_no_dearer(one: Settings, other: Settings) -> bool:
  """Returns whether settings cost no more in every part but the dtype."""
  return (
    (one.remat or False) <= (other.remat or False)
    and (one.microbatches or 1) <= (other.microbatches or 1)
    and (one.partitions or 1) <= (other.partitions or 1)
  )
