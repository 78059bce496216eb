"""Texts and values that T5's own program gives for made-up examples."""

import json
import pathlib

from prompt_tuning.data import superglue

REFERENCE = json.loads(
  pathlib.Path(__file__)
  .with_name("testdata")
  .joinpath("superglue_text.json")
  .read_text()
)
TASKS = REFERENCE["tasks"]
ROWS = {row.name: row for row in superglue.TASKS}
ROWS["wsc_simple_eval"] = superglue.WSC
