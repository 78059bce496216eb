"""Tests of the benchmarks: cases, tables, pages and tiny measurements."""

import argparse
import ast
import asyncio
import dataclasses
import json
import signal
import sys
from unittest import mock

from documented import ROOT
import numpy as np
import pytest
import started

from prompt_tuning.data import vocabulary
from prompt_tuning.mini.ladder import vocabulary as words

sys.path.insert(0, str(ROOT / "benchmarks"))

import first_step
import growth
import input_pipeline
import large
import reliability
import serving
import similarity

import harness
from peers import cases, report
from reliability_parts import cases as reliability_cases
from reliability_parts import damages, fuzz, mistakes, programs
from traffic import growing, servers


def test_lengths_are_those_of_tasks_and_no_more_than_there_is_room_for():
  case = cases.all_cases()["step-small-bfloat16-b32-boolq"]
  batches = case.batches()
  drawn = [len(row) for batch in batches for row in batch["inputs"]]
  # Measured in the release: half of the inputs have 141 tokens or fewer.
  assert 110 < np.median(drawn) < 180
  assert max(drawn) <= case.longest("inputs") == 512
  np.testing.assert_equal(case.batches(), batches)
  assert all(row[-1] == 1 for batch in batches for row in batch["targets"])
  for counts in cases.LENGTHS.values():  # No text.
    assert set(counts) == {"split", "inputs", "targets"}
    assert all(map(str.isdigit, [*counts["inputs"], *counts["targets"]]))


def test_the_tables_are_those_of_the_records(tmp_path, monkeypatch):
  """The committed records make the committed table of ratios and means."""
  committed = report.TABLE.read_text()
  monkeypatch.setattr(report, "TABLE", tmp_path / "table.md")
  report.tabulate(cases.all_cases())
  assert report.TABLE.read_text() == committed


@pytest.mark.slow
@pytest.mark.interop
def test_a_tiny_step_is_compared():
  pytest.importorskip("peft")
  words = ("benchmarks/compare.py", "--quick", "--case=step-*")
  done = started.python(*words, "--seconds=0.01", cwd=ROOT)
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


def test_growth_of_a_server_is_drawn():
  record = {"prompts": [1, 10], "clients": [1, 2], "rates_of_clients": [5, 9]}
  record |= {
    "start_seconds": [8, 9],
    "megabytes": [700, 800],
    "rates": [40, 30],
    "numbers_of_processes": [1, 2],
    "rates_of_processes": [7, 8],
    "megabytes_of_processes": [300, 500],
  }
  page = growing.draw(record)
  drawn = [x.lines[0].get_ydata().tolist() for x in page.axes]
  assert drawn == [
    *([8, 9], [700, 800], [40, 30], [5, 9]),
    *([7, 8], [300, 500]),
  ]
  assert page.axes[3].lines[0].get_xdata().tolist() == [1, 2]


def test_a_rate_counts_the_time_of_the_last_answers():
  async def send(client):
    await asyncio.sleep(0.2)
    traffic._done.append((0.2, 200))

  traffic = servers.Traffic(mock.Mock(), ["a"], [1])
  traffic._send, traffic._url = send, "http://served"
  rate = traffic.as_fast_as_answered(4, 0.21)
  assert 0 < rate < 25  # Each of four is answered twice in 0.4 seconds.


def test_the_page_is_that_of_the_records():
  """The committed records make the committed page, with every formula in it."""
  records = harness.records("serving")
  page = serving.page(records)
  assert (ROOT / "results" / "serving.md").read_text() == page
  files = (harness.RECORDS / "serving").glob("*.json")
  assert {serving.file_name(x) for x in records} == {x.stem for x in files}
  # A request without an answer failed; a refused one did not.
  record = next(x for x in records if x["part"] == "load")
  held = record["held"] | {"requests": 8, "statuses": {"200": 3, "429": 3}}
  rows = serving.rows({**record, "held": held})
  assert ("that failed and were not refused", "0", "2") in rows


# A trainer that only writes its peak memory, as the system reports it.
TRAINER = """
class trainer:
  class Trainer:
    train_state = None
    def train_steps(self, batches, steps):
      b"x" * 50_000_000
      (peak,) = (x for x in open("/proc/self/status") if x.startswith("VmHWM"))
      open("peak", "w").write(peak)
"""


def test_gains_are_against_the_start_from_words():
  frame = similarity.gains()
  row = frame.iloc[0]
  name = "ladder_s-prompt_tuning_from-{}-{task}-seed{seed}.json"
  first, words = (
    json.loads((ROOT / "results/spot" / name.format(x, **row)).read_text())
    for x in (row["source"], "words")
  )
  gain = first["evals"][0]["score"] - words["evals"][0]["score"]
  assert row[0] == pytest.approx(gain)
  assert "words" not in set(frame["source"])
  assert f"{len(frame)} runs of" in similarity.page(frame)
  assert len(similarity.draw(frame).axes) == 2


def test_a_gigabyte_is_a_billion_bytes(tmp_path):
  (tmp_path / "t5x").mkdir()
  (tmp_path / "t5x/__init__.py").write_text(TRAINER)
  main = "import t5x; t5x.trainer.Trainer().train_steps(None, 1)"
  (tmp_path / "t5x/train.py").write_text(main)
  facts = first_step.first_step(tmp_path, str(tmp_path), [])
  _, kibibytes, unit = (tmp_path / "peak").read_text().split()
  assert unit == "kB"  # The system's name for 1,024 bytes.
  assert facts["peak_gb"] == pytest.approx(int(kibibytes) * 1.024e-6, rel=0.01)


@pytest.mark.slow
def test_a_tiny_model_is_run_as_a_large_one(tmp_path, monkeypatch):
  monkeypatch.setattr(vocabulary.MODEL_VOCABULARY, "in_use", None)
  model = large.Model(tmp_path, ["../tests/testdata/tiny"], devices=1)
  record = large.measure(model, steps=4, kill_at=3)
  assert record["killed"]["status"] == -signal.SIGKILL
  assert record["different"] == []
  assert len(record["train"]["losses"]) == 4
  assert [x["step"] for x in record["train"]["evals"]] == [2, 4]
  assert len(record["answer"]["answers"]) == 4
  of_weights = record["planned"]["weights"]
  # Four bytes for each parameter and for each number of the prompt.
  assert of_weights == 4 * record["parameters"] + 4 * 100 * 16
  assert record["train"]["peak_bytes"] > record["planned"]["train"] > of_weights


def test_the_page_says_what_a_large_run_took_and_left():
  run = {"peak_bytes": 15 * 2**29, "seconds": 90.0}
  record = {
    "date": "2026-01-01T00:00:00",
    "device": {"cpus": 2, "cpu": "CPU"},
    "model": ["models/t5_1_1_xl"],
    "parameters": 7,
    **{"devices": 4, "batch": 4, "lengths": {"inputs": 128}},
    "planned": {"weights": 5 * 2**30, "train": 6 * 2**30, "evaluate": 2**32},
    "train": {**run, "step_seconds": [60, 31, 30, 33]},
    **dict.fromkeys(("killed", "resumed", "answer"), run),
    "different": [],
  }
  page = large.page([record])
  assert "| train | 5.00 | 6.00 | 7.50 | 0.50 | 90.0 |" in page
  assert "| answer | 5.00 | 4.00 | 7.50 | 0.50 | 90.0 |" in page
  assert "31.00 (30.00 to 33.00)" in page  # Without the first.
  assert "left the same results" in page
  page = large.page([{**record, "different": ["prompt"]}])
  assert "left other results: prompt" in page


@pytest.mark.slow
def test_rates_are_of_both_passes(monkeypatch):
  monkeypatch.setattr(vocabulary.MODEL_VOCABULARY, "in_use", None)
  vocabulary.of_model(words.ladder())
  args = argparse.Namespace(
    task="ladder_cb", inputs=28, targets=8, batch_size=16
  )
  first, later = input_pipeline.pipeline_rates(args, False, seconds=0.1)
  # The first pass also preprocesses every example.
  assert 0 < first < later


def test_reliability_counts_each_case_once_and_writes_the_page(tmp_path):
  run = []

  def case(name, counts):
    def call():
      run.append(name)
      if not counts:
        raise KeyError(name)
      return counts

    return call

  first = {"a": case("a", {"kills": 1, "most_seconds": 3}), "b": case("b", {})}
  assert reliability_cases.count(tmp_path, first)["broken"] == 1
  with (tmp_path / "cases.jsonl").open("a") as file:
    file.write('{"case": "c", "cou')  # A killed process.
  both = {**first, "c": case("c", {"kills": 2, "most_seconds": 2})}
  counts = reliability_cases.count(tmp_path, both)
  assert reliability_cases.count(tmp_path, both) == counts
  assert run == ["a", "b", "c"]
  expected = {"planned": 3, "done": 3, "kills": 3, "most_seconds": 3}
  assert counts == expected | {"broken": 1}
  assert reliability.bad("kills", counts) == {"broken": 1}


def test_reliability_stops_with_what_was_counted(tmp_path, monkeypatch):
  def stop(*_):
    raise KeyboardInterrupt

  monkeypatch.setattr(mistakes.catalogue, "MISTAKES", [])
  monkeypatch.setattr(fuzz.checking, "check", stop)
  assert mistakes.run(tmp_path, full=True) == {"planned": 0, "done": 0}
  with pytest.raises(SystemExit, match="Stopped"):
    reliability._run_all(["fuzz", "kills"], tmp_path, is_short=True)
  assert not (tmp_path / "kills").exists()


@pytest.mark.parametrize(
  ("script", "words"),
  [
    (large, "xl --folder=no --steps=3"),
    (reliability, "write kills"),
    (serving, "--checkpoint=no --dtype=bfloat16"),
  ],
)
def test_flags_that_contradict_are_refused(script, words, monkeypatch, capsys):
  monkeypatch.setattr(sys, "argv", ["", *words.split()])
  with pytest.raises(SystemExit, match="2"):
    script.main()
  assert "error: Expected" in capsys.readouterr().err


def test_a_case_does_not_go_on_with_what_a_stopped_one_left(
  tmp_path, monkeypatch
):
  left, make = tmp_path / "run" / "left", mock.Mock()
  left.parent.mkdir()
  left.touch()
  make().run = lambda *_: left.parent.mkdir(exist_ok=True) or []
  for name in ("result", "differences"):
    monkeypatch.setattr(programs, name, lambda *_: [left] * left.exists())
  folder, bench = str(left.parent), mock.Mock(scratch=tmp_path)
  _, counts = programs.Bench.disturbed(bench, folder, "normal", make, [])
  assert counts == {"different": 0}


def test_a_message_names_a_damaged_file_or_its_checkpoint():
  file = "checkpoint_9/run/d/metadata"
  assert not damages.names(file, "Error: the run is damaged.")
  assert damages.names(file, "Error: checkpoint_9 is damaged.")


def test_the_page_of_reliability_is_that_of_the_records():
  page = reliability.page(harness.records("reliability"))
  assert (ROOT / "results" / "reliability.md").read_text() == page
