"""What cells and records say to their programs, resolved and comparable."""

import pathlib

import prompt_tuning
from prompt_tuning.experiments import essentials, records
from prompt_tuning.experiments.cells import Cell
from t5x.configuration import gin_resolution, run_configuration
from t5x.configuration.run_configuration import RunConfiguration


class Configurations:
  """The configurations of cells, by the gin files of a folder.

  They are read as text, so that thousands take seconds.
  """

  def __init__(self, root: pathlib.Path):
    """Reads nothing yet.

    Args:
      root: The folder that gin files are named from.
    """
    self._paths = [str(root), prompt_tuning.gin_search_path()]
    self._files: dict[tuple[str, ...], gin_resolution.Bindings] = {}
    self._known: dict[records.Settings, RunConfiguration] = {}

  def of_cell(self, cell: Cell) -> RunConfiguration:
    """Returns what of a cell's configuration makes its numbers, as of today.

    Raises:
      ValueError: if a gin file is missing or is no gin.
    """
    if cell.settings not in self._known:
      self._known[cell.settings] = essentials.of(self.whole(cell))
    return self._known[cell.settings]

  def identity(self, cell: Cell) -> str:
    """Returns what cells share that are the same run, in whatever words.

    Raises:
      ValueError: if a gin file is missing or is no gin.
    """
    if cell.settings.gin_files:
      return self.of_cell(cell).hash
    return repr(cell.settings)  # Of a program that is not told by gin.

  def whole(self, cell: Cell) -> RunConfiguration:
    """Returns all that today's files say to a cell.

    Raises:
      ValueError: if a gin file is missing or is no gin.
    """
    settings = cell.settings
    try:
      if settings.gin_files not in self._files:
        self._files[settings.gin_files] = gin_resolution.Bindings(
          settings.gin_files, paths=self._paths
        )
      bindings = self._files[settings.gin_files].with_bindings(
        f"{name} = {value}" for name, value in settings.bindings
      )
    except SyntaxError as e:
      raise ValueError(f"{cell.sheet}, {cell.name}: {e}.") from e
    return run_configuration.of_bindings(settings.kind, bindings)


def of_record(record: records.RunRecord) -> RunConfiguration | None:
  """Returns what of a run's configuration makes its numbers.

  None if its record does not say what it was told.
  """
  told = whole_of_record(record)
  return None if told is None else essentials.of(told)


def whole_of_record(record: records.RunRecord) -> RunConfiguration | None:
  """Returns all that a run was told; None if its record does not say."""
  told = record.configuration
  if told is None:
    return None
  return RunConfiguration(record.kind, told.settings, told.code)
