"""The comparison with PEFT: its cases, its table, and a tiny one in full."""

import dataclasses
import os
import pathlib
import subprocess
import sys

import numpy as np
import pytest

ROOT = pathlib.Path(__file__).parents[2]
sys.path.insert(0, str(ROOT / "benchmarks"))

import growth  # noqa: E402

import harness  # noqa: E402
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


@pytest.fixture
def write(tmp_path, monkeypatch):
  """A function that writes a record with the seconds of both sides."""
  monkeypatch.setattr(harness, "RECORDS", tmp_path / "records")
  monkeypatch.setattr(report, "TABLE", tmp_path / "table.md")

  def write(ours, theirs, task=None, peer="peft"):
    side = {"cpu_seconds": 1.0, "peak_bytes": 2e9, "warm_up_seconds": 1.0}
    case = cases.Case("step", "small", "bfloat16", 32, 512, task)
    record = {
      "case": dataclasses.asdict(case),
      "load_average": 2.0,
      "disagreement": {"loss": 1e-3},
      "sides": {
        "ours": {**side, "seconds": ours},
        peer: {**side, "seconds": theirs, "peak_bytes": 4e9},
      },
    }
    harness.write(report.name_of(case, peer), record)

  return write


def _table():
  report.tabulate(cases.all_cases())
  return report.TABLE.read_text()


def test_table_has_ratios_of_rounds(write):
  # A slow round slows both: the ratio is 2 in each but the last.
  for task, last in (("cb", 4.0), ("rte", 16.0)):
    write([1.0, 10.0, 1.0], [2.0, 20.0, last], task)
  text = _table()
  assert "| 2.00 (2.00 to 4.00) |" in text
  assert "| 0.50 |" in text
  assert "over 2 tasks: geometric mean 2.00, least 2.00" in text


def test_t5x_has_a_table_of_its_own(write):
  write([1.0, 1.0], [2.0, 2.0], "cb")
  write([1.0, 1.0], [4.0, 4.0], "cb", "t5x")
  of_peft, of_t5x = _table().split("T5X's speed")
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
  for task in cases.LENGTHS.values():
    assert set(task) == {"split", "inputs", "targets"}
    for feature in ("inputs", "targets"):
      assert all(map(str.isdigit, task[feature]))


@pytest.mark.slow
def test_growth_is_counted_and_measured():
  tiny = cases.Case("step", "tiny", "float32", 2, 8, targets=4, prompt=4)
  large = growth.measure(dataclasses.replace(tiny, batch=16))
  small = growth.measure(tiny)
  assert 4 < large["flops"] / small["flops"] < 10
  assert large["temporary_bytes"] > small["temporary_bytes"]


def test_growth_is_drawn():
  fields = ("cpu_seconds", "flops", "added_bytes", "temporary_bytes")
  points = [{"batch": x, **dict.fromkeys(fields, 1e9 * x)} for x in (2, 16)]
  page = growth.draw({"axes": {"batch": points}})
  above, below = page.axes
  assert above.lines[1].get_ydata().tolist() == [0.02, 0.16]
  assert below.lines[0].get_ydata().tolist() == [2.0, 16.0]
