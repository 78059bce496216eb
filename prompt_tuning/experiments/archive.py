"""The archive: all stored records, found by the hash of their configuration."""

from collections.abc import Iterable, Iterator
import os
import pathlib

import prompt_tuning
from prompt_tuning.experiments import records
from prompt_tuning.experiments.cells import Cell
from prompt_tuning.experiments.records import RunRecord, StoredRecord
from t5x import checkpoints
from t5x.configuration import identity, resolution
from t5x.configuration.identity import Difference, RunConfiguration


class Archive:
  """Records of runs, and the configurations that today's files give to cells.

  A cell's record is one of a run with its configuration, whatever the gin files
  and macros were called then. If none exists, it is the one in the cell's own
  place, which has drifted: today's files give its run other settings.
  """

  def __init__(
    self,
    stored: Iterable[StoredRecord] = (),
    root: pathlib.Path = pathlib.Path(),
  ):
    """Sorts records.

    Args:
      stored: The records. Of two of one configuration, the first one with
        results counts.
      root: The folder that paths of gin files and checkpoints start from.
    """
    self.stored = list(stored)
    self._root = root
    self._gin_files: dict[tuple[str, ...], resolution.Bindings] = {}
    self._configurations: dict[Cell, RunConfiguration] = {}
    self._fingerprints: dict[str, str | None] = {}
    self._by_hash: dict[str, StoredRecord] = {}
    self._by_name = {x.name: x for x in self.stored}
    for x in sorted(self.stored, key=lambda x: not x.record.counts):
      if x.record.configuration is not None:
        self._by_hash.setdefault(x.record.configuration.hash, x)

  @classmethod
  def load(
    cls, results: pathlib.Path, root: pathlib.Path | None = None
  ) -> "Archive":
    """Reads the records in a folder that holds a folder for each sheet.

    Args:
      results: The folder.
      root: The folder that paths start from; by default, its parent.

    Raises:
      ValueError: if a file is not a record.
    """
    return cls(records.load(results), root or results.parent)

  def configuration(self, cell: Cell) -> RunConfiguration:
    """Returns the configuration that today's files give to a cell.

    Gin files are read as text, so that thousands of cells take seconds.

    Raises:
      ValueError: if a gin file is missing or cannot be parsed.
    """
    if (known := self._configurations.get(cell)) is not None:
      return known
    try:
      if cell.gin_files not in self._gin_files:
        paths = [str(self._root), prompt_tuning.gin_search_path()]
        self._gin_files[cell.gin_files] = resolution.Bindings(
          cell.gin_files, paths=paths
        )
      bindings = resolution.Bindings(
        texts=[f"{name} = {value}" for name, value in cell.bindings.items()],
        start=self._gin_files[cell.gin_files],
      )
    except ValueError as e:
      raise ValueError(f"{cell.full_name}: {e}") from e
    found = identity.RunConfiguration.from_bindings(cell.kind, bindings)
    self._configurations[cell] = found
    return found

  def current(self, cell: Cell) -> StoredRecord | None:
    """Returns the record with a cell's configuration, whatever its status."""
    today = self.configuration(cell).hash
    own = self._by_name.get(cell.full_name)  # Before another sheet's.
    if own is not None and own.record.counts and _hash(own) == today:
      return own
    return self._by_hash.get(today)

  def find(self, cell: Cell) -> StoredRecord | None:
    """Returns the record to show for a cell, whichever sheet it was run for."""
    own = self._by_name.get(cell.full_name)
    if own and not (own.record.configuration and own.record.kind == cell.kind):
      own = None
    found = filter(None, (self.current(cell), own))
    # Results of other settings are not given up for a failure.
    return min(found, key=lambda x: not x.record.counts, default=None)

  def record(self, cell: Cell) -> RunRecord | None:
    """Returns the content of `current`."""
    stored = self.current(cell)
    return stored.record if stored else None

  def finished(self, cell: Cell) -> RunRecord | None:
    """Returns the content of `current`, if it has results."""
    record = self.record(cell)
    return record if record and record.counts else None

  def of_sheet(self, sheet: str) -> list[StoredRecord]:
    """Returns the records in a sheet's folder."""
    return [x for x in self.stored if x.name.rpartition("/")[0] == sheet]

  def drift(self, cell: Cell) -> list[Difference]:
    """Returns the `differences` of the record that is shown for a cell."""
    stored = self.find(cell)
    return self.differences(stored.record, cell) if stored else []

  def differences(self, record: RunRecord, cell: Cell) -> list[Difference]:
    """Returns how a cell's run would differ from its record today.

    Args:
      record: The record of a run of the cell.
      cell: The cell.

    Returns:
      Settings that change numbers, other weights of the base model, and prompts
      that it started from and that have been trained again since.
    """
    before, today = record.run_configuration, self.configuration(cell)
    settings = before.differences(today) if before else []
    return [
      *(x for x in settings if identity.is_measured(x.name)),
      *self._base_differences(record, today),
      *self._prompt_differences(record, cell),
    ]

  def _base_differences(
    self, record: RunRecord, today: RunConfiguration
  ) -> Iterator[Difference]:
    """Yields the fingerprints of a base model that has other weights by now.

    Nothing if the model is not there: not all are in the repository.
    """
    if (base := record.base) is None:
      return
    folder = os.path.dirname(base.path)
    # Given a folder, a run takes the newest checkpoint in it.
    is_newest = folder and repr(folder) in today.settings.values()
    found = self._fingerprint(folder if is_newest else base.path)
    if found not in (None, base.fingerprint):
      name = f"weights of {base.name or base.path}"
      yield Difference(name, base.fingerprint[:8], found[:8])

  def _fingerprint(self, path: str) -> str | None:
    if path not in self._fingerprints:
      try:
        found = checkpoints.open_checkpoint(str(self._root / path)).fingerprint
      except (OSError, ValueError):
        found = None
      self._fingerprints[path] = found
    return self._fingerprints[path]

  def _prompt_differences(
    self, record: RunRecord, cell: Cell
  ) -> Iterator[Difference]:
    """Yields the prompts that a run read and that were made after it began."""
    for pattern in cell.prompt_patterns:
      for name, maker in records.find_prompts(pattern, self._root):
        if maker and maker.ended > record.began:
          old, new = f"before {record.began}", f"made {maker.ended}"
          yield Difference(f"prompt {name}", old, new)


def _hash(stored: StoredRecord) -> str | None:
  configuration = stored.record.configuration
  return configuration.hash if configuration else None
