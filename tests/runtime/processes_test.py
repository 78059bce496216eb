"""Two processes do with each prompt, on each format, what one does."""

import json

import numpy as np
import on_processes
import pytest
import started
import tiny

from prompt_tuning import prompt_files
from t5x import checkpoints
from t5x.formats import t5x_v3

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def folders(tmp_path_factory):
  """Where one process of two devices and two of one device left their runs.

  The devices share one model, so that all read the same batches.
  """
  orbax = tiny.save_base(tmp_path_factory.mktemp("orbax"))
  v3 = t5x_v3.write_checkpoint(
    str(tmp_path_factory.mktemp("v3")),
    tiny.BASE_STEP,
    checkpoints.open_checkpoint(orbax).arrays,
  )
  one, two = (tmp_path_factory.mktemp(name) for name in ("one", "two"))
  two_of_two = [two, orbax, v3, "--", started.free_address(), 2]
  started.last_lines(
    [
      started.start("on_processes.py", [one, orbax, v3], devices=2),
      *(
        started.start("on_processes.py", [*two_of_two, index], devices=1)
        for index in range(2)
      ),
    ]
  )
  return one, two


def _lines(path):
  return [json.loads(line) for line in path.read_text().splitlines()]


def _record(folder):
  return json.loads((folder / "record.json").read_text())


def _trained(folder):
  record = _record(folder)
  assert record["status"] == "finished"
  prompt, _ = prompt_files.load_prompt(folder / "prompt.safetensors")
  return {"evals": record["evals"], "best": record["best"]}, prompt


def _evaluated(folder):
  return _record(folder)["evals"], []


def _inferred(folder):
  lines = _lines(folder / f"{tiny.TASK}-score.jsonl-00000-of-00001")
  assert len(lines) == 13
  scores = [line.pop("score") for line in lines]
  return lines, scores


# Program -> its folder, and what it leaves there: values, and arrays.
OUTCOMES = {
  "train": ("run", _trained),
  "eval": ("eval", _evaluated),
  "infer": ("infer", _inferred),
}


@pytest.mark.parametrize(
  ("base", "prompt", "program"),
  [(*key, x) for key, programs in on_processes.RUNS.items() for x in programs],
)
def test_two_processes_do_what_one_does(folders, base, prompt, program):
  name, outcome = OUTCOMES[program]
  one, two = (folder / base / prompt / name for folder in folders)
  assert _record(one)["device"]["processes"] == 1
  assert _record(two)["device"]["processes"] == 2
  (values, arrays), (expected, expected_arrays) = outcome(two), outcome(one)
  assert values == expected
  np.testing.assert_allclose(arrays, expected_arrays, rtol=1e-4, atol=1e-4)
