"""Whether the base models that records name are those that lie there today."""

import os
import pathlib

from prompt_tuning.experiments import records
from t5x import checkpoints
from t5x.configuration.run_configuration import Difference, RunConfiguration


class Bases:
  """The base models below a folder, each opened once."""

  def __init__(self, root: pathlib.Path):
    """Reads nothing yet.

    Args:
      root: The folder that checkpoints are named from.
    """
    self._root = root
    self._known: dict[str, str | None] = {}

  def drift(
    self, record: records.RunRecord, today: RunConfiguration
  ) -> list[Difference]:
    """Returns whether a record's base model has other weights by now.

    Args:
      record: A record.
      today: What such a run is told today. It takes the newest checkpoint of a
        folder, where it is given a folder.

    Returns:
      Its fingerprints, old and new; none where they are the same, or where the
      model is not there: not all are in the repository.
    """
    if (base := record.base) is None:
      return []
    folder = os.path.dirname(base.path)
    is_newest = folder and repr(folder) in today.settings.values()
    found = self._fingerprint(folder if is_newest else base.path)
    if found in (None, base.fingerprint):
      return []
    name = f"weights of {base.name or base.path}"
    return [Difference(name, base.fingerprint[:8], found[:8])]

  def _fingerprint(self, path: str) -> str | None:
    if path not in self._known:
      try:
        found = checkpoints.open_checkpoint(str(self._root / path)).fingerprint
      except (OSError, ValueError):
        found = None
      self._known[path] = found
    return self._known[path]
