"""A search for settings with which a command fits, the cheapest first."""

import collections
from collections.abc import Iterator, Mapping, Sequence
import dataclasses
import itertools
import sys
import time
from typing import Any

import tqdm

from t5x.configuration import reading, resolution
from t5x.planning import costs, programs, targets

# Settings to try beside `remat`, and another name for the number of partitions.
# Settings that the command sets are left alone.
_NAMES = ("NUM_MICROBATCHES", "NUM_PARTITIONS", "PARAMETER_DTYPE")
_PARTITIONS = "partitioning.PjitPartitioner.num_partitions"


@dataclasses.dataclass(frozen=True, order=True)
class Settings:
  """Settings to try, ordered by cost.

  Rematerialisation costs a third of a step. Microbatches cost a little. The
  more devices share a model, the more they exchange. None leaves a setting to
  the command. `config` is the gin name of the network's settings.
  """

  remat: bool | None
  microbatches: int | None
  partitions: int | None
  dtype: str | None
  config: str = "network.T5Config"

  @property
  def bindings(self) -> list[str]:
    """The settings as gin bindings."""
    *values, config = dataclasses.astuple(self)
    names = (f"{config}.remat", *_NAMES)
    return [
      f"{name} = {None if value == 1 and name == _NAMES[0] else value!r}"
      for name, value in zip(names, values, strict=True)
      if value is not None
    ]

  @property
  def costs(self) -> tuple[int, int, int]:
    """The settings that cost time."""
    return self.remat or 0, self.microbatches or 1, self.partitions or 1


# Partitions and dtype -> bytes of a device's weights and optimizer state, and
# examples of its batch, which are known before anything is traced.
_Shares = Mapping[tuple[int | None, str | None], tuple[int, int]]


def candidates(
  devices: int, gin_files: Sequence[str], gin_bindings: Sequence[str]
) -> list[Settings]:
  """Returns settings to try, the cheapest first.

  Args:
    devices: The number of devices.
    gin_files: The files of the command; settings not in them are left alone.
    gin_bindings: The bindings of the command, which are left alone.

  Raises:
    ValueError: if no file binds the `config` of a model.
  """
  read = resolution.Bindings(gin_files, paths=reading.search_paths())
  given = {x.label for text in gin_bindings for x in reading.from_text(text)}
  if _PARTITIONS in given:
    given.add("NUM_PARTITIONS")
  own = [x["config"].value for x in read.parameters.values() if "config" in x]
  if not own:
    raise ValueError(
      "No gin file names the sizes of a model, so there is nothing to search: "
      "give one, such as --gin_file=gin/models/t5_1_1_xl.gin."
    )
  # The last one, because a model's file may include another model's file.
  config = own[-1].name.spelled
  names = (f"{config}.remat", *_NAMES)
  tried = {names[0], *read.macros} - given
  values: tuple[list[Any], ...] = (
    [False, True],
    [1, 4],
    [2**i for i in range(devices.bit_length())],
    ["bfloat16", "float32"],
  )
  named = zip(names, values, strict=True)
  choices = (some if name in tried else [None] for name, some in named)
  return sorted(Settings(*x, config) for x in itertools.product(*choices))


def search(
  topology: str,
  gin_files: Sequence[str],
  gin_bindings: Sequence[str],
  tries: int,
  seconds: float,
) -> Iterator[tuple[Settings, costs.CostReport | None, str]]:
  """Tries settings of a command's first program, such as the training step.

  Args:
    topology: A target's name.
    gin_files: The files of the command.
    gin_bindings: The bindings of the command.
    tries: The greatest number of programs to compile.
    seconds: The time after which no further compilation begins.

  Yields:
    Settings, in order, with the cost of their program or the reason it was not
    compiled. Settings are not compiled if they cannot fit, judging by their
    weights or by other compiled settings, or if they cost more than others that
    fit.
  """
  target = targets.find(topology)
  end = time.monotonic() + seconds
  done: dict[Settings, costs.CostReport] = {}
  shares: dict[tuple[int | None, str | None], tuple[int, int]] = {}
  for settings in candidates(len(target.devices), gin_files, gin_bindings):
    bindings = [*gin_bindings, *settings.bindings]
    key = (settings.partitions, settings.dtype)
    found = None
    try:
      if key not in shares:
        with programs.read_command(
          gin_files, bindings, target.devices
        ) as command:
          rows, _ = command.batch["encoder_input_tokens"].shape
          ways = command.arguments["partitioner"].mesh.shape["data"]
          shares[key] = costs.bytes_of(command.state), rows // ways
      reason = skip_reason(settings, shares, done, target.memory)
      if not reason and len(done) == tries:
        reason = f"{tries} others were compiled"
      if not reason and time.monotonic() > end:
        reason = f"{seconds / 60:.0f} minutes were over"
      if not reason:
        with programs.read_command(
          gin_files, bindings, target.devices
        ) as command:
          found = costs.estimate(next(command.programs()), target)
        done[settings] = found
    except ValueError as e:
      reason = str(e)
    yield settings, found, reason


def skip_reason(
  settings: Settings,
  shares: _Shares,
  done: Mapping[Settings, costs.CostReport],
  memory: float,
) -> str:
  """Returns the reason settings need not be compiled, or "".

  Args:
    settings: The settings.
    shares: Each device's share of the command.
    done: The costs of settings that were compiled.
    memory: The memory of a device, in bytes.
  """
  own = state, examples = shares[settings.partitions, settings.dtype]
  parts = settings.microbatches or 1
  if examples % parts:
    return "they divide no batch"
  if state > memory:
    return "their weights alone are too much"
  for other, found in done.items():
    if any(a > b for a, b in zip(other.costs, settings.costs, strict=True)):
      continue
    if found.fits and (
      other.dtype == settings.dtype
      # Nothing is frozen, so the dtype makes no difference.
      or own == shares.get((settings.partitions, other.dtype))
    ):
      return "others that fit cost less"
    # At best, microbatches divide the activations. Sharing a model among more
    # devices does not, because each then has more examples. The peak may
    # include copies of the weights and gradients, hence twice the weights.
    if not found.fits and found.peak and other.remat == settings.remat:
      activations = found.peak - 2 * found.weights - found.optimizer
      least = state + activations * (other.microbatches or 1) / parts
      if least > memory:
        return "others of theirs took too much"
  return ""


def best(done: Mapping[Settings, costs.CostReport]) -> list[Settings]:
  """Returns the settings that fit: lowest bound first, then least traffic.

  Among settings with equal bounds and traffic, fewer microbatches come first.
  """

  def cost(settings: Settings) -> tuple[float, int, Settings]:
    found = done[settings]
    exchanged = sum(size for _, size in (found.collectives or {}).values())
    return found.seconds_bound or 0.0, exchanged, settings

  return sorted((x for x in done if done[x].fits), key=cost)


def describe_trial(settings: Settings, found: costs.CostReport) -> str:
  """Returns a line on the memory and compilation time of settings."""
  texts = [x.removeprefix(f"{settings.config}.") for x in settings.bindings]
  peak = "?" if found.peak is None else f"{found.peak / costs.GIB:.2f}"
  return (
    f"{', '.join(texts)}: {'fits' if found.fits else 'does not fit'}, {peak} "
    f"of {found.memory / costs.GIB:.2f} GiB, compiled in "
    f"{found.compile_seconds:.0f} s"
  )


def print_best(
  topology: str,
  gin_files: Sequence[str],
  gin_bindings: Sequence[str],
  tries: int,
  minutes: int,
) -> None:
  """Searches, and prints the best three settings that fit; see `search`.

  Raises:
    ValueError: if no compiled program fits.
  """
  devices = len(targets.find(topology).devices)
  number = len(candidates(devices, gin_files, gin_bindings))
  done: dict[Settings, costs.CostReport] = {}
  reasons = collections.Counter()
  with tqdm.tqdm(total=number, unit="setting") as bar:
    for settings, found, reason in search(
      topology, gin_files, gin_bindings, tries, 60 * minutes
    ):
      if found:
        done[settings] = found
        bar.write(describe_trial(settings, found), file=sys.stderr)
      else:
        reasons[reason] += 1
      bar.update()
  for reason, times in reasons.items():
    print(f"Not compiled: {times} of {number} settings, as {reason}")
  if not (chosen := best(done)):
    raise ValueError(
      f"None of the compiled settings fits {topology}: use more devices."
    )
  for i, settings in enumerate(chosen[:3], 1):
    given = (x.split(" = ") for x in settings.bindings)
    flags = (
      f"--gin.{name}=" + (f'"{value}"' if "'" in value else value)
      for name, value in given
    )
    print(f"\n{i}. {' '.join(flags)}")
    print(costs.describe(done[settings], None))
