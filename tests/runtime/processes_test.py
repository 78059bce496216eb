"""Two processes do with each prompt, on each format, what one does."""

import json
import os
import pathlib
import socket
import subprocess
import sys

import numpy as np
import on_processes
import pytest
import tiny

from prompt_tuning import prompt_files
from t5x import checkpoints
from t5x.formats import t5x_v3

pytestmark = pytest.mark.slow

TESTS = pathlib.Path(__file__).parents[1]
BASES = ("orbax", "t5x_v3")


def _start(arguments, devices):
  return subprocess.Popen(
    [sys.executable, str(TESTS / "on_processes.py"), *map(str, arguments)],
    env={
      **os.environ,
      "XLA_FLAGS": f"--xla_force_host_platform_device_count={devices}",
      "PYTHONPATH": os.pathsep.join(
        [str(TESTS), os.environ.get("PYTHONPATH", "")]
      ),
    },
    stderr=subprocess.PIPE,
    text=True,
  )


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
  with socket.socket() as free:
    free.bind(("localhost", 0))
    address = f"localhost:{free.getsockname()[1]}"
  processes = [
    _start([one, orbax, v3], devices=2),
    *(
      _start([two, orbax, v3, "--", address, 2, index], devices=1)
      for index in range(2)
    ),
  ]
  for process in processes:
    _, errors = process.communicate(timeout=600)
    assert process.returncode == 0, errors
  return one, two


def _lines(path):
  return [json.loads(line) for line in path.read_text().splitlines()]


@pytest.mark.parametrize("prompt", on_processes.PROMPTS)
@pytest.mark.parametrize("base", range(len(BASES)), ids=BASES)
def test_two_processes_do_what_one_does(folders, base, prompt):
  one, two = (folder / str(base) / prompt for folder in folders)
  records = [
    json.loads((folder / "run" / "record.json").read_text())
    for folder in (one, two)
  ]
  assert [x["device"]["processes"] for x in records] == [1, 2]
  assert records[1]["status"] == "finished"
  assert records[1]["evals"] == records[0]["evals"]
  trained = [
    prompt_files.load_prompt(folder / "run" / "prompt.safetensors")[0]
    for folder in (one, two)
  ]
  np.testing.assert_allclose(*trained, rtol=1e-4, atol=1e-4)
  evaluated = [
    json.loads((folder / "eval" / "record.json").read_text())["evals"]
    for folder in (one, two)
  ]
  assert evaluated[1] == evaluated[0]
  name = f"{tiny.TASK}-score.jsonl-00000-of-00001"
  scored = [_lines(folder / "infer" / name) for folder in (one, two)]
  assert len(scored[0]) == 13
  np.testing.assert_allclose(
    *([line["score"] for line in lines] for lines in scored), rtol=1e-4
  )
