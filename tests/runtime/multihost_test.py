"""Processes of Slurm's srun find each other without flags."""

import contextlib
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
  "--gin.partitioning.PjitPartitioner.num_partitions=1",
  f"--gin.BATCH_SIZE={tiny.BATCH_SIZE}",
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


@pytest.mark.slow
@pytest.mark.parametrize("is_real", [False, True])
def test_two_tasks_of_srun_evaluate_together(tmp_path, is_real):
  base = tiny.save_base(tmp_path / "base")
  prompt = tmp_path / "prompt.npy"
  np.save(prompt, np.ones((tiny.PROMPT_LENGTH, tiny.WIDTH), np.float32))
  command = [
    *COMMAND,
    f"--gin.PROMPT_FILE='{prompt}'",
    f"--gin.INITIAL_CHECKPOINT_PATH='{base}'",
    f"--gin.EVAL_OUTPUT_DIR='{tmp_path / 'out'}'",
  ]
  path = os.pathsep.join([str(TESTS), os.environ.get("PYTHONPATH", "")])
  job = _free_job()
  with slurm.cluster() if is_real else contextlib.nullcontext():
    processes = [
      subprocess.Popen(
        ["srun", "--ntasks=2", *command] if is_real else command,
        env=os.environ | {"PYTHONPATH": path} | environment,
        stderr=subprocess.PIPE,
        text=True,
      )
      for environment in (
        [{}] if is_real else [_srun(job, 2, 0), _srun(job, 2, 1)]
      )
    ]
    for process in processes:
      _, errors = process.communicate(timeout=300)
      assert process.returncode == 0, errors
  record = tiny.record(tmp_path / "out")
  assert record["status"] == "finished"
  assert record["device"]["processes"] == 2
