"""Brings filed records up to today's schema, without changing what they say.

From their own gin text they get the configuration that `t5x.run_configuration`
writes today. What their code did otherwise is noted with it.
"""

import json
import pathlib
import re
from typing import Any

from prompt_tuning.experiments import records
from t5x import record_schema, run_configuration

# Training examples came in another order than seqio's: looking whether a split
# was empty used up an iteration, and the next was shuffled anew.
_ORDER_OF_BEFORE = "that of seqio's second iteration"
_SHUFFLED = re.compile(r"train/.*DatasetConfig\.shuffle$")


def migrated(fields: dict[str, Any], where: str) -> dict[str, Any]:
  """Returns the fields of a record with today's schema.

  Args:
    fields: Of this or an older schema.
    where: For messages.

  Raises:
    ValueError: if they are no record, or have no gin text to read.
  """
  record = record_schema.validate(fields, where)
  if record.configuration is None:
    if record.gin is None:
      raise ValueError(f"{where} has no gin text: run it again.")
    told = run_configuration.of_gin(record.kind, record.gin)
    shuffled = any(
      _SHUFFLED.match(name) and value == "True"
      for name, value in told.settings.items()
    )
    code = {
      name: _ORDER_OF_BEFORE if name == "data_order" and shuffled else value
      for name, value in told.code.items()
    }
    record.configuration = record_schema.Configuration(
      hash=told.hash, settings=dict(told.settings), code=code
    )
  return json.loads(record_schema.dump(record))


def migrate(results: pathlib.Path) -> int:
  """Migrates the records below a folder, in place.

  Args:
    results: Holds a folder of records for each sheet.

  Returns:
    How many were changed.

  Raises:
    ValueError: if a file is no record; none is changed then.
  """
  new: dict[pathlib.Path, str] = {}
  for path in records.paths(results):
    old = path.read_text(encoding="utf-8")
    fields = migrated(json.loads(old), str(path))
    text = json.dumps(fields, indent=2, sort_keys=True) + "\n"
    if text != old:
      new[path] = text
  for path, text in new.items():
    path.write_text(text, encoding="utf-8")
  return len(new)
