"""What a run was told: its resolved settings, with one hash.

The hash names a run in its folder, in its record and in its table. Where a run
writes is no setting, nor is what files and macros are called: a run that is
told the same in other words is the same run.
"""

from collections.abc import Iterable, Mapping, Sequence
import dataclasses
import fnmatch
import functools
import hashlib
import json
import os
from typing import Any

from etils import epath

from t5x.configuration import client, resolution

# The program that leaves a record -> its function, which gin binds.
FUNCTIONS = {"train": "train", "eval": "evaluate", "infer": "infer"}
FILE = "configuration.json"
# Parameters that say where a run writes, or which part of its data it takes.
_PLACES = frozenset({"model_dir", "output_dir", "shard_id"})
# And those that no run has a value of.
_NO_SETTINGS = _PLACES | {"refused_microbatches"}
# Settings that the code decides and no file says, of each program. A change of
# the code that changes what the same files compute is noted here: runs of the
# older code are then not resumed, and their records have drifted.
CODE_SETTINGS = {"train": {"code.data_order": repr("seqio's")}}
# Settings that change no number: they are recorded, but identify no run.
_UNMEASURED = (
  "*.logger_cls",
  "*JSONLogger.*",
  "*.concurrent_metrics",
  "*.summarize_config_fn",
  "*.inference_evaluator_cls",
  "*RestoreCheckpointConfig.mode",
)
# What a run may go on with: how long it is, what is looked at meanwhile, and
# where and in which parts it is computed, which draws other masks of dropout.
# Everything else, but what the next two lists have, changes what is trained.
MAY_CHANGE = (
  "train.total_steps",
  "train.relative_steps",
  "train.eval_period",
  "train.eval_steps",
  "train.stats_period",
  "train.gc_period",
  "train.run_eval_before_training",
  "train.concurrent_metrics",
  "train.summarize_config_fn",
  "train.actions",
  "*EarlyStoppingAction.*",
  "*SaveCheckpointConfig.period",
  "*SaveCheckpointConfig.keep",
  "*JSONLogger.*",
  "*TensorBoardLogger.*",
  "*PjitPartitioner.*",
  "*Trainer.num_microbatches",
  "*_eval/*.batch_size",
)
# Where the base model lies: a run's checkpoint knows it by its fingerprint.
_OF_THE_BASE = ("*RestoreCheckpointConfig.path",)
# What nothing was made of before the first evaluation, which may have failed
# of it.
_OF_EVALUATIONS = (
  "infer_eval/*",
  "*SaveBestCheckpointer.metric_*",
)


@dataclasses.dataclass(frozen=True)
class Difference:
  """A setting that two configurations do not share.

  Attributes:
    name: Of the setting.
    old: Its value in the first; None if it is not there.
    new: Its value in the second; None if it is not there.
    macro: What gives it its value, if a macro does.
  """

  name: str
  old: str | None
  new: str | None
  macro: str | None = None

  def __str__(self) -> str:
    name = f"{self.macro} ({self.name})" if self.macro else self.name
    return f"{name}: {self.old or 'none'} -> {self.new or 'none'}"


@dataclasses.dataclass(frozen=True)
class RunConfiguration:
  """The settings of a run.

  Attributes:
    program: "train", "eval" or "infer".
    settings: Name -> value, as Python writes it, without places.
    macros: Name -> the macro that gives it its value, for messages.
  """

  program: str
  settings: Mapping[str, str]
  macros: Mapping[str, str] = dataclasses.field(
    default_factory=dict, compare=False, repr=False
  )

  @functools.cached_property
  def hash(self) -> str:
    """The run's identity: 32 hexadecimal digits.

    It covers the program, and the settings that can change a number.
    """
    measured = [x for x in sorted(self.settings.items()) if is_measured(x[0])]
    text = json.dumps([self.program, measured])
    return hashlib.sha256(text.encode()).hexdigest()[:32]

  def differences(self, other: "RunConfiguration") -> list[Difference]:
    """Returns what another configuration says otherwise, by name."""
    old, new = self.settings, other.settings
    return [
      Difference(
        name,
        old.get(name),
        new.get(name),
        other.macros.get(name) or self.macros.get(name),
      )
      for name in sorted({*old, *new})
      if old.get(name) != new.get(name)
    ]

  def to_json(self) -> dict[str, Any]:
    """Returns the field `configuration` of a record."""
    return {"hash": self.hash, "settings": dict(self.settings)}


def of_settings(program: str, settings: Mapping[str, Any]) -> RunConfiguration:
  """Makes the configuration of a program that runs without gin.

  Args:
    program: "train", "eval" or "infer".
    settings: Name -> value, whose `repr` says all of it.
  """
  values = {name: repr(value) for name, value in settings.items()}
  return _made(program, values, {})


def of_gin(program: str, gin_text: str) -> RunConfiguration:
  """Makes the configuration that `gin.config_str()` describes."""
  return of_bindings(program, resolution.Bindings(texts=[gin_text]))


def of_bindings(
  program: str, bindings: resolution.Bindings
) -> RunConfiguration:
  """Makes the configuration of gin files and bindings.

  Args:
    program: "train", "eval" or "infer", or any other that gin does not bind.
    bindings: The files' and the command's.
  """
  function = FUNCTIONS.get(program, program)
  settings = resolution.resolve(bindings, function, _NO_SETTINGS)
  return _made(
    program,
    {x.name: x.text for x in settings},
    {x.name: x.macro for x in settings if x.macro},
  )


def _made(
  program: str, settings: Mapping[str, str], macros: Mapping[str, str]
) -> RunConfiguration:
  kept = {
    name: value
    for name, value in settings.items()
    if name.rpartition(".")[2] not in _PLACES
  }
  kept |= CODE_SETTINGS.get(program, {})
  return RunConfiguration(program, kept, macros)


@functools.cache
def is_measured(name: str) -> bool:
  """Whether a setting of this name can change a number."""
  registered = (x.unmeasured_settings for x in client.clients())
  return not _is_one_of(name, _UNMEASURED, *registered)


def may_change(difference: Difference) -> bool:
  """Whether a run may go on with the new value."""
  registered = (x.resumable_settings for x in client.clients())
  return _is_one_of(difference.name, MAY_CHANGE, *registered)


def _is_base_path(difference: Difference) -> bool:
  registered = (x.base_model_paths for x in client.clients())
  return _is_one_of(difference.name, _OF_THE_BASE, *registered)


def _is_of_evaluations(difference: Difference) -> bool:
  registered = (x.evaluation_settings for x in client.clients())
  return _is_one_of(difference.name, _OF_EVALUATIONS, *registered)


def _is_one_of(name: str, *patterns: Iterable[str]) -> bool:
  return any(fnmatch.fnmatch(name, x) for some in patterns for x in some)


def describe(differences: Iterable[Difference]) -> str:
  """Returns differences in one line; those that a macro makes, once."""
  lines: dict[tuple[str | None, ...], str] = {}
  for x in differences:
    key = (x.macro, x.old, x.new) if x.macro else (x.name,)
    lines.setdefault(key, str(x))
  return "; ".join(lines.values())


def read(folder: str) -> tuple[RunConfiguration, list[dict[str, Any]]] | None:
  """Reads the configuration of the run in a folder.

  Returns:
    It, and the changes that it went on with, as in a record; None if the folder
    has none.

  Raises:
    ValueError: if it cannot be read; the message names the file.
  """
  path = os.path.join(folder, FILE)
  try:
    fields = json.loads(epath.Path(path).read_text())
    configuration = RunConfiguration(fields["program"], fields["settings"])
    if configuration.hash != fields["hash"]:
      raise ValueError(f"its hash is not {fields['hash']}")
    return configuration, fields["changes"]
  except FileNotFoundError:
    return None
  except (ValueError, KeyError, TypeError, RecursionError) as e:
    raise ValueError(
      f"{path} is damaged ({e}): it says what the run in this folder was told. "
      "Choose another folder, or remove the file if the settings are the same."
    ) from e


def dump(
  configuration: RunConfiguration, changes: Sequence[Mapping[str, Any]]
) -> str:
  """Returns the text of `configuration.json`.

  Args:
    configuration: Of the run.
    changes: What it went on with, as in a record.
  """
  fields = {
    "program": configuration.program,
    **configuration.to_json(),
    "changes": list(changes),
  }
  return json.dumps(fields, indent=2, sort_keys=True) + "\n"


def check_same_run(
  before: RunConfiguration,
  now: RunConfiguration,
  folder: str,
  is_evaluated: bool = True,
) -> list[Difference]:
  """Checks that a run may go on with a configuration.

  Args:
    before: What the run in the folder was told.
    now: What it is told now.
    folder: For messages.
    is_evaluated: Whether the run was.

  Returns:
    The differences, all of which may be.

  Raises:
    ValueError: if one of them changes what the run trains.
  """
  differences = before.differences(now)
  if refused := [
    x
    for x in differences
    if not may_change(x)
    and not _is_base_path(x)
    and (is_evaluated or not _is_of_evaluations(x))
  ]:
    raise ValueError(
      f"{folder} has a run of other settings, there -> now: "
      f"{describe(refused)}. A run goes on with the settings it began with; "
      "what may change is how long it is, how often it is looked at, in which "
      "parts it is computed, and where its base model lies. "
      "Give those settings, or choose another folder."
    )
  return differences


def check_same_everywhere(
  configuration: RunConfiguration | None, folder: str
) -> None:
  """Checks that all processes were told the same.

  Each of them calls it. Where the base model lies may differ.

  Args:
    configuration: What this process was told.
    folder: Where it is to write.

  Raises:
    ValueError: in all of them, if one was told something else.
  """
  # It takes a second: not for --help.
  from t5x import multihost

  told = configuration or RunConfiguration("train", {})
  settings = {**told.settings, "folder": folder}
  here = dataclasses.replace(told, settings=settings)
  first = dataclasses.replace(
    told, settings=multihost.of_first_process(settings)
  )
  differences = [x for x in first.differences(here) if not _is_base_path(x)]
  if multihost.is_true_anywhere(bool(differences)):
    raise ValueError(
      "Not all processes were told the same, the first's -> this one's: "
      f"{describe(differences) or 'no difference here'}. Start each of them "
      "with the same command and files."
    )
