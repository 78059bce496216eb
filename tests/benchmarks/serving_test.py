"""The records of serving, and the page that is made of them."""

import json
import pathlib
import sys

import pytest

ROOT = pathlib.Path(__file__).parents[2]
sys.path.insert(0, str(ROOT / "benchmarks"))

import serving  # noqa: E402

RECORDS = [
  json.loads(path.read_text())
  for path in sorted(
    (ROOT / "results" / "benchmarks" / "serving").glob("*.json")
  )
]


def test_the_page_is_that_of_the_records():
  assert (ROOT / "results" / "serving.md").read_text() == serving.page(RECORDS)


def test_rates_are_of_turns_beside_each_other():
  rows = serving.rows(
    {
      "part": "mixed",
      "seconds": {"fifty": [2.0, 4.0], "one": [2.0, 2.0], "peft": [3.0, 6.0]},
      "requests": 100,
      "requests_of_peft": 10,
      "same_as_peft": 9,
      "prompt_table_bytes": 2_000_000,
    }
  )
  shown = {what: measured for what, _, measured in rows}
  assert shown["over one prompt of 50"] == "0.75 [0.50, 1.00]"
  assert shown["over PEFT, set_adapter each"] == "15.00 [15.00, 15.00]"
  assert shown["answers that are PEFT's"] == "9"


@pytest.mark.parametrize(
  ("statuses", "failed"), [({"200": 5, "429": 3}, "0"), ({"200": 6}, "2")]
)
def test_refused_is_not_failed(statuses, failed):
  part = {
    "requests": 8,
    "statuses": statuses,
    "sent_per_second": 10.0,
    "refused_without_retry_after": 0,
    "p50_seconds": 0.1,
    "p99_seconds": 0.2,
  }
  rows = serving.rows(
    {
      "part": "load",
      "rate": 10.0,
      "seconds": 600.0,
      "held": part,
      "over": part,
      "again": part,
      "changes": 4,
      "failed_changes": 0,
      "job": "running",
      "job_steps": 7,
      "resident_bytes": [10**6 * x for x in range(24)],
      "prompt_table_bytes": 1e6,
      "prompt_host_bytes": 1e6,
      "model_bytes": 1e6,
    }
  )
  shown = {what: measured for what, _, measured in rows}
  assert shown["that failed and were not refused"] == failed
  assert shown["memory after the first twelfth, MB"] == "3"
  assert shown["memory at the end, MB"] == "23"


def test_copies_of_the_model_are_told_from_programs():
  def step(anonymous):
    return {"anonymous": anonymous * 10**6}

  rows = serving.rows(
    {
      "part": "starts",
      "demo_seconds": [14.2, 10.1],
      "server": {
        "model_bytes": 100e6,
        "array_bytes": 110e6,
        "prompt_table_bytes": 10e6,
        "resident_bytes": 900e6,
      },
      "memory": {
        "steps": {
          "libraries": step(400),
          "loaded": step(530),
          "compiled": step(800),
        },
        "model_bytes": 100 * 10**6,
        "table_bytes": 10 * 10**6,
        "programs": 7,
        "peak_bytes": 1200 * 10**6,
        "compiled_resident_bytes": 1000 * 10**6,
      },
    }
  )
  shown = {what: measured for what, _, measured in rows}
  arrays = "arrays of the server, without the table of prompts, as copies of"
  assert shown[f"{arrays} them"] == "1.00"
  assert shown["memory that reading them takes, as copies"] == "1.20"
  assert shown["that compiling 7 programs takes, MB"] == "270"
  assert shown["that answers take at their most, MB"] == "200"
