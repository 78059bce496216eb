"""Processes of Slurm's srun find each other without flags."""

import json
import os
import pathlib
import socket
import subprocess
import sys

import numpy as np
import pytest
import slurm
import tiny

from t5x import multihost

TESTS = pathlib.Path(__file__).parents[1]
COMMAND = [
  sys.executable,
  "-m",
  "t5x.eval",
  f"--gin_file={TESTS}/testdata/tiny.gin",
  "--gin_file=gin/methods/prompt_tuning.gin",
  "--gin_file=gin/prompts/from_file.gin",
  "--gin_file=gin/runs/eval.gin",
  f"--gin.MIXTURE_OR_TASK_NAME='{tiny.TASK}'",
  "--gin.MIXTURE_OR_TASK_MODULE='tiny'",
]


def _srun(job, count, index):
  """The environment of a task of `srun --ntasks=COUNT` on this machine."""
  return {
    "SLURM_JOB_ID": str(job),
    "SLURM_STEP_NODELIST": "localhost",
    "SLURM_STEP_NUM_NODES": "1",
    "SLURM_STEP_NUM_TASKS": str(count),
    "SLURM_NTASKS": str(count),
    "SLURM_PROCID": str(index),
    "SLURM_LOCALID": str(index),
  }


@pytest.fixture(autouse=True)
def _no_cluster(monkeypatch):
  for name in _srun(0, 1, 0):
    monkeypatch.delenv(name, raising=False)


def test_a_step_of_several_tasks_is_a_cluster(monkeypatch):
  assert not multihost.is_one_of_several()
  for name, value in _srun(1, 1, 0).items():
    monkeypatch.setenv(name, value)
  assert not multihost.is_one_of_several()
  # A shell that salloc opened.
  monkeypatch.setenv("SLURM_NTASKS", "2")
  assert not multihost.is_one_of_several()
  monkeypatch.setenv("SLURM_STEP_NUM_TASKS", "2")
  assert multihost.is_one_of_several()
  # The script of sbatch itself.
  monkeypatch.delenv("SLURM_STEP_NODELIST")
  assert not multihost.is_one_of_several()


def _free_job():
  """A number of a job whose port, as JAX derives it, is free."""
  for job in range(os.getpid(), os.getpid() + 100):
    with socket.socket() as probe:
      if probe.connect_ex(("localhost", job % 2**12 + 65536 - 2**12)):
        return job
  raise AssertionError("no port is free")


def _command(folder):
  """An evaluation, and where it leaves its record."""
  base = tiny.save_base(folder / "base")
  prompt = folder / "prompt.npy"
  np.save(prompt, np.ones((tiny.PROMPT_LENGTH, tiny.WIDTH), np.float32))
  out = folder / "out"
  command = [
    *COMMAND,
    f"--gin.PROMPT_FILE='{prompt}'",
    f"--gin.INITIAL_CHECKPOINT_PATH='{base}'",
    f"--gin.EVAL_OUTPUT_DIR='{out}'",
    "--gin.partitioning.PjitPartitioner.num_partitions=1",
    f"--gin.BATCH_SIZE={tiny.BATCH_SIZE}",
  ]
  return command, out / "record.json"


def _environment():
  path = os.environ.get("PYTHONPATH", "")
  return {**os.environ, "PYTHONPATH": f"{TESTS}{os.pathsep}{path}"}


def _look(record):
  fields = json.loads(record.read_text())
  assert fields["status"] == "finished"
  assert fields["device"]["processes"] == 2


@pytest.mark.slow
def test_two_tasks_of_srun_evaluate_together(tmp_path):
  command, record = _command(tmp_path)
  job = _free_job()
  processes = [
    subprocess.Popen(
      command,
      env=_environment() | _srun(job, 2, index),
      stderr=subprocess.PIPE,
      text=True,
    )
    for index in range(2)
  ]
  for process in processes:
    _, errors = process.communicate(timeout=300)
    assert process.returncode == 0, errors
  _look(record)


@pytest.mark.slow
def test_two_tasks_of_a_real_srun_evaluate_together(tmp_path):
  command, record = _command(tmp_path)
  with slurm.cluster():
    ended = subprocess.run(
      ["srun", "--ntasks=2", *command],
      env=_environment(),
      capture_output=True,
      text=True,
      timeout=300,
      check=False,
    )
    assert ended.returncode == 0, ended.stderr
  _look(record)
