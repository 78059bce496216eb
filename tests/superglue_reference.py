"""Texts and values that T5's own program computes for made-up examples."""

import json

from started import TESTS

from prompt_tuning.data import task_rows

REFERENCE = json.loads((TESTS / "testdata/superglue_text.json").read_text())
TASKS = REFERENCE["tasks"]
ROWS = {row.name: row for row in task_rows.TASKS}
ROWS["wsc_simple_eval"] = task_rows.BY_NAME["wsc"]
