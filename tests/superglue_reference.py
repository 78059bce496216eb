"""Texts and values that T5's own program gives for made-up examples."""

import json
import pathlib

from prompt_tuning.data import task_rows

_PATH = pathlib.Path(__file__).parent / "testdata" / "superglue_text.json"
REFERENCE = json.loads(_PATH.read_text())
TASKS = REFERENCE["tasks"]
ROWS = {row.name: row for row in task_rows.TASKS}
ROWS["wsc_simple_eval"] = task_rows.BY_NAME["wsc"]
