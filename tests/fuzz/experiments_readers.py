"""The readers of sheets, sweeps and stored records."""

import json
import pathlib

from fuzz.reader import Reader, file, inside, text
from fuzz.trainer_readers import RECORD
import made_up

from prompt_tuning.experiments import (
  claims,
  parameters,
  plan_table,
  sheets,
  sweeps,
)
from prompt_tuning.experiments import records as stored_records

_ROOT = pathlib.Path(__file__).parents[2]
_CLAIMS, _PARAMETERS = (
  (_ROOT / "configs" / f"{name}.toml").read_text()
  for name in ("claims", "parameters")
)

READERS: dict[str, Reader] = {
  "sweep's arguments": text(
    "--gin.X=1,2\n--gin_file=a.gin\n--gin.Y=[1, 'a']\n--v=1",
    lambda text: sweeps.parse(text.split("\n")),
  ),
  "sheet": inside(
    "x.toml",
    made_up.SHEET,
    lambda folder: sheets.load("x", pathlib.Path(folder)),
  ),
  "sheet of claims": file(
    "x.toml", _CLAIMS, lambda path: sheets.parse(path, claims.Claims)
  ),
  "sheet of parameters": file(
    "x.toml",
    _PARAMETERS,
    lambda path: sheets.parse(path, parameters.ParameterSheet),
  ),
  "stored record": file("x.json", RECORD, stored_records.read),
  "plans": file(
    "x.json",
    json.dumps([{"target": "v3:4x4", "fits": True}]),
    plan_table.read,
  ),
}
