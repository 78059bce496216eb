"""The archive: every record of a folder, found by what its run is of."""

from collections.abc import Iterable, Iterator
import pathlib

from prompt_tuning.experiments import bases, configurations, records
from prompt_tuning.experiments.cells import Cell
from t5x.configuration.run_configuration import Difference


class Archive:
  """Records of runs.

  The record of a cell is that of a run with its configuration, whatever gin
  files and macros were called then. One whose settings are no longer those of
  today's files is found by its command, or else by its place, and has drifted.
  """

  def __init__(
    self,
    filed: Iterable[records.Filed] = (),
    root: pathlib.Path = pathlib.Path(),
    folder: pathlib.Path = pathlib.Path(),
  ):
    """Sorts records.

    Args:
      filed: In the order in which they count, but that records with results
        count first.
      root: The folder that gin files and checkpoints are named from.
      folder: That records are named from.
    """
    self.filed = list(filed)
    self._root = root
    self._folder = folder
    self.configurations = configurations.Configurations(root)
    self._bases = bases.Bases(root)
    self._by_hash: dict[str, records.Filed] = {}
    self._by_command: dict[records.Settings, records.Filed] = {}
    # Of programs that do not say what they were told: the command is all.
    self._untold: dict[records.Settings, records.Filed] = {}
    self._by_place: dict[str, records.Filed] = {}
    for x in sorted(self.filed, key=lambda x: not x.record.counts):
      told = configurations.of_record(x.record)
      command = records.settings(x.record.command)
      if told is not None:
        self._by_hash.setdefault(told.hash, x)
      else:
        self._untold.setdefault(command, x)
      self._by_command.setdefault(command, x)
      self._by_place.setdefault(self.name(x), x)

  @classmethod
  def load(
    cls, results: pathlib.Path, root: pathlib.Path | None = None
  ) -> "Archive":
    """Reads the records in a folder that holds a folder for each sheet.

    Args:
      results: The folder.
      root: That gin files are named from; by default, the one it lies in.

    Raises:
      ValueError: if a file is no record.
    """
    return cls(records.load(results), root or results.parent, results)

  def name(self, filed: records.Filed) -> str:
    """Returns a record's path below the archive's folder, without suffix."""
    return filed.path.relative_to(self._folder).with_suffix("").as_posix()

  def find(self, cell: Cell) -> records.Filed | None:
    """Returns the record to show for a cell, whichever sheet it was run for."""
    found = (
      self.of_today(cell),
      self._by_command.get(cell.settings),
      self._in_its_place(cell),
    )
    # Results of other settings are not given up for a failure.
    return min(
      filter(None, found), key=lambda x: not x.record.counts, default=None
    )

  def of_today(self, cell: Cell) -> records.Filed | None:
    """Returns the record of today's settings, whatever became of the run."""
    today = self.configurations.of_cell(cell)
    own = self._by_place.get(cell.full_name)  # Before another sheet's.
    if own is not None and own.record.counts:
      told = configurations.of_record(own.record)
      command = records.settings(own.record.command)
      if told.hash == today.hash if told else command == cell.settings:
        return own
    return self._by_hash.get(today.hash) or self._untold.get(cell.settings)

  def _in_its_place(self, cell: Cell) -> records.Filed | None:
    """The record in a cell's own place, if it is one of the same run."""
    filed = self._by_place.get(cell.full_name)
    if filed is None or filed.record.configuration is None:
      return None
    return filed if filed.record.kind == cell.settings.kind else None

  def drift(self, cell: Cell) -> list[Difference]:
    """Returns the `differences` of the record that is shown for a cell."""
    filed = self.find(cell)
    return self.differences(filed.record, cell) if filed else []

  def differences(
    self, record: records.RunRecord, cell: Cell
  ) -> list[Difference]:
    """Returns what today's files say otherwise than those that made a record.

    Args:
      record: Of a run of the cell.
      cell: The cell.

    Returns:
      The settings, old and new, whether the base model has other weights by
      now, and prompts that it read and that were made again since. Nothing
      if it does not say what its run was told.
    """
    told = configurations.of_record(record)
    if told is None:
      return []
    return [
      *told.differences(self.configurations.of_cell(cell)),
      *self._bases.drift(record, self.configurations.whole(cell)),
      *self._made_again(record),
    ]

  def _made_again(self, record: records.RunRecord) -> Iterator[Difference]:
    """Prompts that a run read, and that are of runs that ended after it began.

    Yields:
      The prompts, with when the run began and when they were made.
    """
    for pattern in records.settings(record.command).prompts_read:
      for name, maker in records.made_prompts(pattern, self._root):
        if maker and (made := maker.ended) > record.began:
          old, new = f"before {record.began}", f"made {made}"
          yield Difference(f"prompt {name}", old, new)

  def record(self, cell: Cell) -> records.RunRecord | None:
    """Returns the record of today's settings, whatever became of the run."""
    filed = self.of_today(cell)
    return filed.record if filed else None

  def finished(self, cell: Cell) -> records.RunRecord | None:
    """Returns the record of today's settings, if it has results."""
    record = self.record(cell)
    return record if record and record.counts else None

  def beside(self, sheet: str) -> list[records.Filed]:
    """Returns the records that lie in a sheet's folder."""
    return [x for x in self.filed if self.name(x).rpartition("/")[0] == sheet]
