"""The benchmarks: cases, tables, pages, and tiny measurements."""

import argparse
import ast
import dataclasses
import json
import os
import pathlib
import subprocess
import sys

import numpy as np
import pytest

from prompt_tuning.data import vocabulary
from prompt_tuning.mini.ladder import vocabulary as words

ROOT = pathlib.Path(__file__).parents[1]
sys.path.insert(0, str(ROOT / "benchmarks"))

import first_step  # noqa: E402
import growth  # noqa: E402
import input_pipeline  # noqa: E402
import serving  # noqa: E402

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
  for counts in cases.LENGTHS.values():  # No text.
    assert set(counts) == {"split", "inputs", "targets"}
    assert all(map(str.isdigit, [*counts["inputs"], *counts["targets"]]))


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
      "commit": "0123456789",
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
  assert "ours / PEFT's speed" in done.stdout
  apart = ast.literal_eval(done.stdout.splitlines()[-1].strip())
  # Equal weights give equal losses and gradients.
  assert 0 < apart["gradient_norm"] < 1e-4


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


def _records():
  paths = (harness.RECORDS / "serving").glob("*.json")
  return {path.stem: json.loads(path.read_text()) for path in paths}


def _shown(name, **fields):
  """What a record shows that is another in some fields."""
  rows = serving.rows({**_records()[name], **fields})
  return {what: measured for what, _, measured in rows}


def test_the_page_is_that_of_the_records():
  page = serving.page(_records().values())
  assert (ROOT / "results" / "serving.md").read_text() == page


def test_rates_are_of_turns_beside_each_other():
  seconds = {"fifty": [2.0, 4.0], "one": [2.0, 2.0], "peft": [3.0, 6.0]}
  shown = _shown(
    "mixed_t5_small", seconds=seconds, requests=100, requests_of_peft=10
  )
  assert shown["over one prompt of 50"] == "0.75 [0.50, 1.00]"
  assert shown["over PEFT, set_adapter each"] == "15.00 [15.00, 15.00]"


@pytest.mark.parametrize(
  ("statuses", "failed"), [({"200": 5, "429": 3}, "0"), ({"200": 6}, "2")]
)
def test_refused_is_not_failed(statuses, failed):
  name = "load_ladder_m_lm_100"
  held = {**_records()[name]["held"], "requests": 8, "statuses": statuses}
  shown = _shown(name, held=held, resident_bytes=[10**6 * x for x in range(24)])
  assert shown["that failed and were not refused"] == failed
  assert shown["memory after the first twelfth, MB"] == "3"
  assert shown["memory at the end, MB"] == "23"


def test_copies_of_the_model_are_told_from_programs():
  names = ("model_bytes", "array_bytes", "prompt_table_bytes", "resident_bytes")
  server = dict(zip(names, (100e6, 110e6, 10e6, 900e6), strict=True))
  own = {"libraries": 400, "loaded": 530, "compiled": 800}
  memory = {
    "steps": {name: {"anonymous": x * 10**6} for name, x in own.items()},
    "model_bytes": 100 * 10**6,
    "table_bytes": 10 * 10**6,
    "programs": 7,
    "peak_bytes": 1200 * 10**6,
    "compiled_resident_bytes": 1000 * 10**6,
  }
  shown = _shown("starts_t5_small", server=server, memory=memory)
  arrays = "arrays of the server, without the table of prompts, as copies of"
  assert shown[f"{arrays} them"] == "1.00"
  assert shown["memory that reading them takes, as copies"] == "1.20"
  assert shown["that compiling 7 programs takes, MB"] == "270"
  assert shown["that answers take at their most, MB"] == "200"


# A trainer that does nothing, and writes what the system counts of its process.
STAND_INS = {
  "t5x/__init__.py": "",
  "jax.py": """
class monitoring:
  register_event_duration_secs_listener = print
block_until_ready = print
""",
  "t5x/trainer.py": """
class Trainer:
  train_state = None
  def train_steps(self, batches, steps):
    b"x" * 50_000_000
    (peak,) = (x for x in open("/proc/self/status") if x.startswith("VmHWM"))
    open("peak", "w").write(peak)
""",
  "t5x/train.py": """
from t5x import trainer
trainer.Trainer().train_steps(None, 1)
""",
}


def test_a_gigabyte_is_a_billion_bytes(tmp_path):
  for name, text in STAND_INS.items():
    (tmp_path / name).parent.mkdir(exist_ok=True)
    (tmp_path / name).write_text(text)
  facts = first_step.first_step(tmp_path, str(tmp_path), [])
  _, kibibytes, unit = (tmp_path / "peak").read_text().split()
  assert unit == "kB"  # As the system calls 1,024 bytes.
  assert facts["peak_gb"] == pytest.approx(int(kibibytes) * 1.024e-6, rel=0.01)


@pytest.mark.slow
def test_rates_are_of_both_passes(monkeypatch):
  monkeypatch.setattr(vocabulary.MODEL_VOCABULARY, "in_use", None)
  vocabulary.of_model(words.ladder())
  args = argparse.Namespace(
    task="ladder_cb", inputs=28, targets=8, batch_size=16
  )
  first, later = input_pipeline.pipeline_rates(args, False, seconds=0.1)
  # The first pass has the preprocessing of every example in it.
  assert 0 < first < later
