"""Every postprocessed string of the reference in `superglue_text.json`."""

import json
import pathlib

import pytest

from prompt_tuning.data import superglue

REFERENCE = json.loads(
  pathlib.Path(__file__)
  .parents[1]
  .joinpath("testdata", "superglue_text.json")
  .read_text()
)
ROWS = {row.name: row for row in superglue.TASKS}
ROWS["wsc_simple_eval"] = superglue.WSC


def as_json(value):
  return json.loads(json.dumps(value))


@pytest.mark.parametrize(
  "case",
  REFERENCE["postprocess"],
  ids=lambda case: f"{case['task']}-{case['text']!r}-{case['is_target']}",
)
def test_texts_become_the_reference_values(case):
  got = ROWS[case["task"]].postprocess(
    case["text"], case["example"], case["is_target"]
  )
  assert as_json(got) == case["output"]


def test_targets_may_be_bytes_as_seqio_passes_them():
  example = {"answers": [b"Lena Orr"], "idx/passage": 1, "idx/query": 2}
  assert superglue.RECORD.postprocess("", example, True) == {
    "value": ["Lena Orr"],
    "group": (1, 2),
  }
  example = {"targets_pretokenized": b"the Lamp", "label": 1}
  assert superglue.WSC.postprocess("old lamp", example) == 1
