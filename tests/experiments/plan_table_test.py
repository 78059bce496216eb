"""Tests of the plan table: its cells, its page and its command's errors."""

import itertools
import shutil

import documented

from prompt_tuning.commands import console
from prompt_tuning.experiments import plan_page, plan_table, sheets
from t5x.planning import targets

ROOT = documented.ROOT
PLAN = sheets.parse(ROOT / "configs/plan.toml", plan_table.Plan)


def test_rule_of_the_table_divides_devices_and_batches():
  every = itertools.product(PLAN.cells(), (1, 4, 8, 16, 32, 64), (8, 16, 80))
  for cell, devices, memory in every:
    bindings = PLAN.bindings(cell, devices, memory * 2**30)
    values = dict(x.split(" = ") for x in bindings)
    share = int(values["partitioning.PjitPartitioner.num_partitions"])
    assert devices % share == 0
    assert PLAN.batch_size % (devices // share) == 0
    parts = values["NUM_MICROBATCHES"]
    assert parts == "None" or PLAN.batch_size % int(parts) == 0


def test_table_has_programs_with_a_tpu_kernel():
  assert PLAN.select("tpu", "flash")


def test_page_is_made_of_its_records():
  records = plan_table.read(*ROOT.glob("results/plan_*.json"))
  assert plan_page.page(PLAN, records) == (ROOT / "results/plan.md").read_text()


def test_without_a_compiler_there_is_no_table(monkeypatch, capsys, tmp_path):
  def find(name):
    raise ValueError(f"No compiler for {name}")

  monkeypatch.setattr(targets, "prepare", lambda: None)
  monkeypatch.setattr(targets, "find", find)
  shutil.copytree(ROOT / "configs", tmp_path / "configs")
  words = ["plan-table", "--compile=gpu", f"--root={tmp_path}"]
  assert console.main(words) == 1
  assert "Error: No compiler for h100x8" in capsys.readouterr().err
  assert not (tmp_path / "results").exists()
