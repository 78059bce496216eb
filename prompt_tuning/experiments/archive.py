"""The archive: every record of a folder, found by what its run is of."""

from collections.abc import Mapping
import dataclasses
import pathlib

from prompt_tuning.experiments import records
from prompt_tuning.experiments.cells import Cell


@dataclasses.dataclass(frozen=True)
class Archive:
  """Records of runs.

  Attributes:
    filed: What a run is of -> its record.
  """

  filed: Mapping[records.Settings, records.Filed] = dataclasses.field(
    default_factory=dict
  )

  @classmethod
  def load(cls, results: pathlib.Path) -> "Archive":
    """Reads the records in a folder that holds a folder for each sheet.

    Raises:
      ValueError: if a file is no record.
    """
    return cls(records.load(results))

  def find(self, cell: Cell) -> records.Filed | None:
    """Returns the record of a cell, whichever sheet it was run for."""
    return self.filed.get(cell.settings)

  def record(self, cell: Cell) -> records.RunRecord | None:
    """Returns the record of a cell, whatever became of the run."""
    filed = self.find(cell)
    return filed.record if filed else None

  def finished(self, cell: Cell) -> records.RunRecord | None:
    """Returns the record of a cell, if it has results."""
    record = self.record(cell)
    return record if record and record.counts else None

  def beside(self, sheet: str) -> list[records.Filed]:
    """Returns the records that lie in a sheet's folder."""
    return [
      x
      for x in self.filed.values()
      if x.path.parent.as_posix().endswith(f"/results/{sheet}")
    ]
