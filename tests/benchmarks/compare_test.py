"""The comparison with PEFT: its cases, its table, and a tiny one in full."""

import dataclasses
import json
import os
import pathlib
import subprocess
import sys

import numpy as np
import pytest

ROOT = pathlib.Path(__file__).parents[2]
sys.path.insert(0, str(ROOT / "benchmarks"))

from peers import cases, report  # noqa: E402


def test_lengths_are_those_of_tasks_and_no_more_than_there_is_room_for():
  case = cases.all_cases()["step-small-bfloat16-b32-boolq"]
  batches = case.batches()
  drawn = [len(row) for batch in batches for row in batch["inputs"]]
  # Measured in the release: half of the inputs have 141 tokens or fewer.
  assert 110 < np.median(drawn) < 180
  assert max(drawn) <= case.longest("inputs") == cases.MOST_INPUTS
  again = case.batches()
  for batch, other in zip(batches, again, strict=True):
    for rows, same in zip(batch["inputs"], other["inputs"], strict=True):
      np.testing.assert_array_equal(rows, same)
  assert all(row[-1] == 1 for batch in batches for row in batch["targets"])


def _record(ours, theirs, **case):
  side = {
    "calls_in_a_turn": 1,
    "cpu_seconds": 1.0,
    "peak_bytes": 2e9,
    "load_seconds": 1.0,
    "warm_up_seconds": 1.0,
  }
  return {
    "case": {
      "work": "step",
      "size": "small",
      "dtype": "bfloat16",
      "batch": 32,
      "inputs": 512,
      "task": "cb",
      **case,
    },
    "commit": "0123456789",
    "uncommitted_changes": False,
    "versions": {"jax": "1"},
    "device": {"cpus": 2, "cpu": "a CPU"},
    "load_average": 2.0,
    "disagreement": {"loss": 1e-3},
    "sides": {
      "ours": {**side, "seconds": ours},
      "peft": {**side, "seconds": theirs, "peak_bytes": 4e9},
    },
  }


def test_table_has_ratios_of_rounds(tmp_path, monkeypatch):
  monkeypatch.setattr(report, "RECORDS", tmp_path / "records")
  monkeypatch.setattr(report, "TABLE", tmp_path / "table.md")
  # A slow round slows both: the ratio is 2 in each but the last.
  for task, last in (("cb", 4.0), ("rte", 16.0)):
    record = _record([1.0, 10.0, 1.0], [2.0, 20.0, last], task=task)
    report.write(cases.Case(**record["case"]).name, record)
  report.tabulate(cases.all_cases())
  text = (tmp_path / "table.md").read_text()
  assert "| 2.00 (2.00 to 4.00) |" in text
  assert "| 0.50 |" in text
  assert "over 2 tasks: geometric mean 2.00, least 2.00" in text


def test_t5x_has_a_table_of_its_own(tmp_path, monkeypatch):
  monkeypatch.setattr(report, "RECORDS", tmp_path / "records")
  monkeypatch.setattr(report, "TABLE", tmp_path / "table.md")
  record = _record([1.0, 1.0], [2.0, 2.0], task=None)
  case = cases.Case(**record["case"])
  report.write(report.name_of(case, "peft"), record)
  record = _record([1.0, 1.0], [4.0, 4.0], task=None)
  record["sides"]["t5x"] = record["sides"].pop("peft")
  report.write(report.name_of(case, "t5x"), record)
  report.tabulate(cases.all_cases())
  of_peft, of_t5x = (tmp_path / "table.md").read_text().split("T5X's speed")
  assert "| 2.00 (2.00 to 2.00) |" in of_peft
  assert "4.00 (4.00 to 4.00)" not in of_peft
  assert "| 4.00 (4.00 to 4.00) |" in of_t5x


@pytest.mark.slow
@pytest.mark.interop
def test_a_tiny_step_is_compared():
  pytest.importorskip("peft")
  done = subprocess.run(
    [
      *(sys.executable, "benchmarks/compare.py", "--quick"),
      *("--case=step-*", "--seconds=0.01"),
    ],
    cwd=ROOT,
    env={
      **os.environ,
      "PYTHONPATH": f"{ROOT}:{ROOT / 'runtime'}",
      "JAX_PLATFORMS": "cpu",
    },
    capture_output=True,
    text=True,
  )
  assert done.returncode == 0, done.stderr[-3000:]
  assert "of PEFT's speed" in done.stdout
  apart = dict(
    x.split() for x in done.stdout.partition("apart: ")[2].strip().split(", ")
  )
  # Equal weights give equal losses and gradients.
  assert 0 < float(apart["gradient_norm"]) < 1e-4


def test_lengths_have_no_text():
  for task in json.loads(cases.LENGTHS.read_text()).values():
    assert set(task) == {"split", "inputs", "targets"}
    for feature in ("inputs", "targets"):
      assert all(map(str.isdigit, task[feature]))


def test_growth_is_counted_measured_and_drawn():
  import growth

  if not growth.FLAGS.is_parsed():
    growth.FLAGS(["growth"])
  tiny = cases.Case("step", "tiny", "float32", 2, 8, targets=4, prompt=4)
  small, large = (
    growth.measure(tiny),
    growth.measure(dataclasses.replace(tiny, batch=16)),
  )
  assert 4 < large["flops"] / small["flops"] < 10
  assert large["temporary_bytes"] > small["temporary_bytes"]
  page = growth.draw(
    {"axes": {"batch": [{"batch": 2, **small}, {"batch": 16, **large}]}}
  )
  assert len(page.axes) == 2
