"""The archive: all stored records, found by the hash of their configuration."""

from collections.abc import Iterable
import functools
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
    paths = [str(root), prompt_tuning.gin_search_path()]
    self._bindings = functools.cache(
      lambda files: resolution.Bindings(files, paths=paths)
    )
    self._fingerprint = functools.cache(self._read_fingerprint)
    self._configurations: dict[Cell, RunConfiguration] = {}
    self._by_hash: dict[str | None, StoredRecord] = {}
    self._by_name = {x.name: x for x in self.stored}
    for x in sorted(self.stored, key=lambda x: not x.record.counts):
      self._by_hash.setdefault(x.record.hash, x)

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
    if cell not in self._configurations:
      texts = [f"{name} = {value}" for name, value in cell.bindings.items()]
      try:
        bindings = resolution.Bindings(
          texts=texts, start=self._bindings(cell.gin_files)
        )
      except ValueError as e:
        raise ValueError(f"{cell.full_name}: {e}") from e
      found = RunConfiguration.from_bindings(cell.kind, bindings)
      self._configurations[cell] = found
    return self._configurations[cell]

  def current(self, cell: Cell) -> StoredRecord | None:
    """Returns the record with a cell's configuration, whatever its status."""
    today = self.configuration(cell).hash
    own = self._by_name.get(cell.full_name)  # Before another sheet's.
    if own is not None and own.record.counts and own.record.hash == today:
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

  def of_sheet(self, sheet: str) -> list[StoredRecord]:
    """Returns the records in a sheet's folder."""
    return [x for x in self.stored if x.name.rpartition("/")[0] == sheet]

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
    found = [x for x in settings if identity.is_measured(x.name)]
    if base := record.base:
      folder = os.path.dirname(base.path)
      # Given a folder, a run takes the newest checkpoint in it.
      is_newest = folder and repr(folder) in today.settings.values()
      now = self._fingerprint(folder if is_newest else base.path)
      if now not in (None, base.fingerprint):
        name = f"weights of {base.name or base.path}"
        found.append(Difference(name, base.fingerprint[:8], now[:8]))
    for pattern in cell.prompt_patterns:
      for name, maker in records.find_prompts(pattern, self._root):
        if maker and maker.ended > record.began:
          old, new = f"before {record.began}", f"made {maker.ended}"
          found.append(Difference(f"prompt {name}", old, new))
    return found

  def _read_fingerprint(self, path: str) -> str | None:
    """Returns the fingerprint of weights; None if they are not there."""
    try:  # Not all models are in the repository.
      return checkpoints.open_checkpoint(str(self._root / path)).fingerprint
    except (OSError, ValueError):
      return None
