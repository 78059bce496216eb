"""The identity of a run: its resolved settings and their hash.

The hash names a run in its folder, its record and its table. It does not depend
on the run's folders or on the names of files and macros: the same settings
under other names are the same run.
"""

from collections.abc import Iterable, Mapping, Sequence
import dataclasses
import fnmatch
import functools
import hashlib
import json
import os
import pathlib
import tomllib
from typing import Any, NamedTuple

from t5x.configuration import client, resolution
from t5x.files import parsing

# Program that writes a record -> its function, which gin binds.
FUNCTIONS = {"train": "train", "eval": "evaluate", "infer": "infer"}
FILE = "configuration.json"
_KEYS = {
  "program": str,
  "settings": dict[str, str],
  "hash": str,
  "changes": list[dict[str, str | int | None]],
}
# The greatest number of differences in a message.
_SHOWN = 8
# Parameters for where a run writes, or which part of its data it reads.
_PLACES = frozenset({"model_dir", "output_dir", "shard_id"})
# Settings of each program that the code decides and no file names. A change of
# the code that changes the results of the same files is noted here: runs of the
# older code are then not resumed, and their records count as drifted.
CODE_SETTINGS = {"train": {"code.data_order": repr("seqio's")}}
# The trainer's own settings by kind; clients register theirs.
_OWN = client.Client(
  gin_path="",
  **tomllib.loads(pathlib.Path(__file__).with_suffix(".toml").read_text()),
)


class Difference(NamedTuple):
  """A setting in which two configurations differ.

  Attributes:
    name: The setting's name.
    old: Its value in the first configuration, or None.
    new: Its value in the second configuration, or None.
    macro: The macro that gives the value, if one does.
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
    settings: Name -> value, as Python writes it, without `_PLACES`.
    macros: Name -> the macro that gives the value, for messages.
  """

  program: str
  settings: Mapping[str, str]
  macros: Mapping[str, str] = dataclasses.field(
    default_factory=dict, compare=False, repr=False
  )

  @classmethod
  def from_settings(
    cls, program: str, settings: Mapping[str, Any]
  ) -> "RunConfiguration":
    """Returns the configuration of a program that runs without gin.

    Args:
      program: "train", "eval" or "infer".
      settings: Name -> value; `repr` must show all of a value.
    """
    kept = {
      name: repr(value)
      for name, value in settings.items()
      if name.rpartition(".")[2] not in _PLACES
    }
    return cls(program, kept | CODE_SETTINGS.get(program, {}))

  @classmethod
  def from_bindings(
    cls, program: str, bindings: resolution.Bindings
  ) -> "RunConfiguration":
    """Returns the configuration of gin files and bindings.

    Args:
      program: "train", "eval" or "infer", or another that gin does not bind.
      bindings: The bindings of the files and of the command.
    """
    function = FUNCTIONS.get(program, program)
    found = resolution.resolve(bindings, function, _PLACES)
    return cls(
      program,
      {x.name: x.text for x in found} | CODE_SETTINGS.get(program, {}),
      {x.name: x.macro for x in found if x.macro},
    )

  @functools.cached_property
  def hash(self) -> str:
    """The run's identity: 32 hexadecimal digits.

    It covers the program and the settings that can change a number.
    """
    measured = [x for x in sorted(self.settings.items()) if is_measured(x[0])]
    text = json.dumps([self.program, measured])
    return hashlib.sha256(text.encode()).hexdigest()[:32]

  def differences(self, other: "RunConfiguration") -> list[Difference]:
    """Returns the differences from another configuration, by name."""
    old, new = self.settings, other.settings
    macros = {**self.macros, **other.macros}
    return [
      Difference(name, old.get(name), new.get(name), macros.get(name))
      for name in sorted({*old, *new})
      if old.get(name) != new.get(name)
    ]

  def to_json(self) -> dict[str, Any]:
    """Returns the field `configuration` of a record."""
    return {"hash": self.hash, "settings": dict(self.settings)}


@functools.cache
def is_measured(name: str) -> bool:
  """Returns whether the setting of this name can change a number."""
  return not matches(name, "unmeasured_settings")


def check_kind(kind: str | None, program: str, place: str) -> None:
  """Raises ValueError if a folder has the record of another program.

  Args:
    kind: The record's program, or None if the folder has no record.
    program: The program that will write to the folder.
    place: The folder, for the message.
  """
  if kind not in (None, program):
    raise ValueError(
      f"{place} has the record of a t5x.{kind} run. Choose another folder."
    )


def matches(name: str, *kinds: str) -> bool:
  """Returns whether a setting is of some kinds, which are `Client` fields."""
  patterns = (
    pattern
    for x in (_OWN, *client.clients())
    for kind in kinds
    for pattern in getattr(x, kind)
  )
  return any(fnmatch.fnmatch(name, pattern) for pattern in patterns)


def describe(differences: Iterable[Difference]) -> str:
  """Returns differences in one line, with each macro only once.

  Macros come first. If there are many differences, only the first are shown.
  """
  lines: dict[tuple[str | None, ...], str] = {}
  for x in sorted(differences, key=lambda x: x.macro is None):
    key = (x.macro, x.old, x.new) if x.macro else (x.name,)
    lines.setdefault(key, str(x))
  shown = list(lines.values())
  if len(shown) > _SHOWN:
    shown[_SHOWN:] = [f"and {len(shown) - _SHOWN} more"]
  return "; ".join(shown)


def read(folder: str) -> tuple[RunConfiguration, list[dict[str, Any]]] | None:
  """Reads the configuration of the run in a folder.

  Returns:
    The configuration and its changes since the run began, as in a record; None
    if the folder has no configuration.

  Raises:
    ValueError: if the file is damaged.
  """
  path = os.path.join(folder, FILE)
  what = "the configuration of a run"
  remedy = (
    "It is damaged: choose another folder, or remove the file if the settings "
    "are the same."
  )
  try:
    fields = parsing.json_file(path, what, _KEYS, remedy)
  except FileNotFoundError:
    return None
  configuration = RunConfiguration(fields["program"], fields["settings"])
  if configuration.hash != fields["hash"]:
    raise ValueError(
      f"{path} is not {what}: its hash is not {fields['hash']}. {remedy}"
    )
  return configuration, fields["changes"]


def dump(
  configuration: RunConfiguration, changes: Sequence[Mapping[str, Any]]
) -> str:
  """Returns the text of `configuration.json`.

  Args:
    configuration: The run's configuration.
    changes: Its changes since the run began, as in a record.
  """
  own = {"program": configuration.program, "changes": list(changes)}
  fields = {**own, **configuration.to_json()}
  return json.dumps(fields, indent=2, sort_keys=True) + "\n"


class OtherSettingsError(ValueError):
  """A folder has a run that cannot resume with the new settings."""


def check_same_run(
  before: RunConfiguration,
  now: RunConfiguration,
  folder: str,
  is_evaluated: bool = True,
) -> list[Difference]:
  """Checks that a run may resume with a configuration.

  Args:
    before: The configuration of the run in the folder.
    now: The new configuration.
    folder: The run's folder, for messages.
    is_evaluated: Whether the run has been evaluated.

  Returns:
    The differences, all of which are allowed.

  Raises:
    OtherSettingsError: if a difference changes the result of training.
  """
  differences = before.differences(now)
  allowed = ["resumable_settings", "base_model_paths"]
  allowed += [] if is_evaluated else ["evaluation_settings"]
  if refused := [x for x in differences if not matches(x.name, *allowed)]:
    raise OtherSettingsError(
      f"{folder} has a run with other settings, there -> now: "
      f"{describe(refused)}. A resumed run keeps its settings, except for its "
      "length, the periods of its evaluations and checkpoints, the parts it is "
      "computed in, and the path of its base model. Give the old settings, or "
      "choose another folder."
    )
  return differences


def check_same_everywhere(
  configuration: RunConfiguration | None, folder: str
) -> None:
  """Checks that all processes have the same configuration.

  Every process calls this. The path of the base model may differ.

  Args:
    configuration: The configuration of this process, if the caller has one.
    folder: The folder that this process writes to.

  Raises:
    ValueError: in all processes, if one of them differs.
  """
  # Not at the top: it takes a second, which --help can spare.
  from t5x import multihost

  own = configuration or RunConfiguration("train", {})
  here = dataclasses.replace(own, settings={**own.settings, "folder": folder})
  first = dataclasses.replace(
    own, settings=multihost.from_first_process(here.settings)
  )
  differences = [
    x
    for x in first.differences(here)
    if not matches(x.name, "base_model_paths")
  ]
  if multihost.is_true_anywhere(bool(differences)):
    raise ValueError(
      "The processes have different settings, first process -> this one: "
      f"{describe(differences) or 'no difference here'}. Start each of them "
      "with the same command and files."
    )
