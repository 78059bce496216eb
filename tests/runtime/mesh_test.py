"""Tests of meshes: any devices and processes train the same prompt."""

import contextlib
import json
import os
import socket
import subprocess
import sys

from flax import traverse_util
import jax
import numpy as np
import on_mesh
import pytest
import slurm
import started
import tiny
import tiny_decoder

from prompt_tuning import prompt_files
from t5x import checkpoints, multihost, partitioning
from t5x.formats import stored_arrays, t5x_v3
from t5x.runs import run_data


def _start(base, folder, jobs, devices=2, processes=1):
  """Starts processes that do jobs together; returns each one's last line."""
  text = json.dumps([[name, str(folder / out), *x] for name, out, *x in jobs])
  address = [started.free_address(), processes] if processes > 1 else []
  return started.last_lines(
    [
      started.start(
        "on_mesh.py", [base, text, *address, *([i] * bool(address))], devices
      )
      for i in range(processes)
    ]
  )


@pytest.fixture(scope="module")
def done(base, tmp_path_factory):
  """The files and output of four devices, two processes and two devices.

  Starting a process takes longer than its jobs, so each does several.
  """
  folder = tmp_path_factory.mktemp("meshes")
  jobs = [
    ("compare", "four_2.npz", 2, "by length"),
    ("compare", "four_4.npz", 4, "padded"),
    ("go_on", "run", 2, 2),
  ]
  _start(base, folder, jobs, devices=4)
  v3 = t5x_v3.write_checkpoint(
    str(folder / "v3"), tiny.BASE_STEP, checkpoints.open_checkpoint(base).arrays
  )
  both = [
    ("take_turns", "turns.npz", 1, "padded", "by length"),
    ("go_on", "run", 1, 4),
    ("prompts", "orbax", base, "class_labels", "from_file"),
    ("prompts", "v3_prompts", v3, "sampled_vocab"),
    ("stop", "stopped"),
  ]
  said = _start(base, folder, both, processes=2)
  _start(base, folder, [("go_on", "run", 2, 6)])
  return folder, said, v3


def _assert_same(path, number, *expected, rtol=1e-4):
  results = np.load(path)
  for name, values in (item for x in expected for item in x.items()):
    if name == "embedding_shards":
      # The frozen embedding is divided among the devices that share a model.
      assert results[name] == number
    elif name == "predictions":
      np.testing.assert_array_equal(results[name], values)
    else:
      np.testing.assert_allclose(results[name], values, rtol=rtol, atol=1e-4)


def test_two_processes_with_a_mesh_of_four_agree_with_one(base, tmp_path):
  _start(base, tmp_path, [("compare", "two.npz", 2, "padded")], processes=2)
  _assert_same(tmp_path / "two.npz", 2, on_mesh.run(base, 1))


@pytest.mark.slow
def test_other_meshes_agree_with_one_device(base, done):
  padded, by_length = on_mesh.run(base, 1), on_mesh.run_by_length(base, 1)
  _assert_same(done[0] / "four_2.npz", 2, by_length)
  _assert_same(done[0] / "four_4.npz", 4, padded)
  _assert_same(done[0] / "turns.npz", 1, padded, by_length)


@pytest.mark.slow
@pytest.mark.parametrize(
  ("network", "rtol"),
  # Soft caps and three steps of Adafactor amplify rounding, which depends on
  # the processor: scores differed by 6e-4 in CI.
  [("tiny_decoder", 1e-4), ("tiny_t5gemma", 2e-3)],
)
def test_eight_devices_train_a_network_as_one_does(network, rtol, tmp_path):
  base = tiny_decoder.save(tmp_path / "base", network)
  jobs = [("compare", "eight.npz", 4, "padded", "by length")]
  _start(base, tmp_path, jobs, devices=8)
  padded, by_length = on_mesh.run(base, 1), on_mesh.run_by_length(base, 1)
  _assert_same(tmp_path / "eight.npz", 4, padded, by_length, rtol=rtol)


def _lines(folder):
  (path,) = folder.glob(f"{tiny.TASK}-score.jsonl-*")
  return tiny.lines(path)


@pytest.mark.slow
def test_two_processes_do_with_each_prompt_what_one_does(base, done, tmp_path):
  """Prompts come from a base model in either format or from a file."""
  folder, _, v3 = done
  on_mesh.prompts(None, tmp_path / "orbax", base, "class_labels", "from_file")
  on_mesh.prompts(None, tmp_path / "v3_prompts", v3, "sampled_vocab")
  compared = [
    path.parent.relative_to(tmp_path)
    for path in tmp_path.glob("*/*/*/record.json")
  ]
  assert len(compared) == sum(map(len, on_mesh.PROMPTS.values()))
  for place in compared:
    folders = (tmp_path / place, folder / place)
    one, two = map(tiny.record, folders)
    assert (one["device"]["processes"], two["device"]["processes"]) == (1, 2)
    assert one["status"] == "finished"
    for name in ("status", "evals", "best", "steps", "parameters"):
      assert two.get(name) == one.get(name), (place, name)
    if place.name == "train":
      one, two = (
        prompt_files.load_prompt(x / "prompt.safetensors")[0] for x in folders
      )
      np.testing.assert_allclose(one, two, rtol=1e-4, atol=1e-4)
    elif place.name == "infer":
      one, two = map(_lines, folders)
      scores = [[line.pop("score") for line in lines] for lines in (one, two)]
      assert len(one) == 13
      assert one == two
      np.testing.assert_allclose(*scores, rtol=1e-4, atol=1e-4)


@pytest.mark.slow
def test_signal_to_one_process_ends_both_at_the_same_place(done):
  folder, (one, other) = done[0] / "stopped", done[1]
  assert one == other
  status, step = one[0].split()
  record = tiny.record(folder)
  assert (record["status"], record["step"]) == (status, int(step))
  assert status == "interrupted"
  assert tiny.BASE_STEP + 4 <= int(step) < tiny.BASE_STEP + 1000
  assert checkpoints.open_checkpoint(str(folder)).step == int(step)


@pytest.mark.slow
def test_run_goes_on_on_other_meshes_and_numbers_of_processes(
  base, done, tmp_path
):
  run = done[0] / "run"
  for steps in (2, 4, 6):
    expected = on_mesh.go_on(base, str(tmp_path), 1, steps)
  got, wanted = (
    stored_arrays.read(
      checkpoints.open_checkpoint(str(x)).arrays["encoder/prompt/prompt"]
    )
    for x in (run, tmp_path)
  )
  assert expected.step == tiny.BASE_STEP + 6
  np.testing.assert_allclose(got, wanted, rtol=1e-4, atol=1e-4)
  device = tiny.record(run)["device"]
  assert (device["count"], device["processes"]) == (2, 1)


def test_frozen_weights_stay_those_of_the_checkpoint(base):
  """Frozen weights stay bit-identical under jit with donated buffers."""
  loop, *_ = on_mesh.start(base, 1)
  assert int(loop.train_state.step) == tiny.BASE_STEP
  prompt = np.asarray(loop.train_state.trainable["encoder"]["prompt"]["prompt"])
  loop.train_steps(on_mesh.batches(3), num_steps=3)
  frozen = jax.device_get(loop.train_state.frozen)
  stored = checkpoints.open_checkpoint(base).arrays
  np.testing.assert_equal(
    traverse_util.flatten_dict(frozen, sep="/"),
    {name: stored_arrays.read(array) for name, array in stored.items()},
  )
  trained = loop.train_state.trainable["encoder"]["prompt"]["prompt"]
  assert not np.allclose(trained, prompt)


def test_rules_are_those_of_t5x():
  rules = dict(partitioning.standard_logical_axis_rules())
  assert rules["batch"] == "data"
  divided = {name for name, axis in rules.items() if axis == "model"}
  assert divided == {"vocab", "mlp", "heads", "joined_kv"}
  two = partitioning.standard_logical_axis_rules(2, 2, (("prompt", None),))
  assert [axis for name, axis in two if name == "embed"] == ["model", "data"]
  assert two[-1] == ("prompt", None)
  with pytest.raises(ValueError, match="of 1 or 2"):
    partitioning.standard_logical_axis_rules(3)


class _Chip:
  """A stand-in for a chip of a TPU slice whose hosts have 2x2 chips each."""

  platform = "tpu"
  core_on_chip = 0

  def __init__(self, kind, coordinates, slice_shape):
    self.device_kind = kind
    self.coords = coordinates
    self.id = int(np.ravel_multi_index(coordinates, slice_shape))
    x, y, z = coordinates
    self.process_index = 100 * (x // 2) + 10 * (y // 2) + z


def _partitioner(kind, slice_shape, partitions):
  chips = [_Chip(kind, xyz, slice_shape) for xyz in np.ndindex(slice_shape)]
  with partitioning.using_devices(chips):
    return partitioning.PjitPartitioner(partitions)


@pytest.mark.parametrize("partitions", [1, 2, 4, 8])
@pytest.mark.parametrize(
  ("kind", "slice_shape"),
  [
    ("TPU v5 lite", (4, 4, 1)),
    ("TPU v6 lite", (4, 4, 1)),
    ("TPU v4", (2, 2, 4)),
    ("TPU v4", (4, 4, 4)),
  ],
)
def test_hosts_of_a_slice_divide_the_batch(
  monkeypatch, kind, slice_shape, partitions
):
  partitioner = _partitioner(kind, slice_shape, partitions)
  batch_size = 2 * partitioner.mesh.shape["data"]
  owners = {x.process_index for x in partitioner.mesh.devices.flat}
  parts = []
  for host in owners:
    monkeypatch.setattr(jax, "process_index", lambda host=host: host)
    parts.append(partitioner.local_rows(batch_size))
  rows, readers = np.unique(parts, return_counts=True)
  assert rows.tolist() == list(range(batch_size))
  assert len(set(readers)) == 1


def test_partitioner_refuses_what_does_not_fit():
  with pytest.raises(ValueError, match="disagree"):
    partitioning.PjitPartitioner(
      num_partitions=1, model_parallel_submesh=(2, 1, 1, 1)
    )
  with pytest.raises(ValueError, match="No rule for the logical axes"):
    partitioning.PjitPartitioner(num_partitions=1).shardings_of(
      {"x": jax.sharding.PartitionSpec("prompt")}
    )


@pytest.mark.parametrize("split", ["train_eval", "infer_eval"])
def test_batches_that_the_mesh_cannot_divide_are_refused_at_the_start(
  tmp_path, base, split
):
  cfg = tiny.dataset_config(split="validation", batch_size=6)
  plan = tiny.make_plan(
    tmp_path,
    base,
    partitioner=_partitioner("TPU v4", (2, 2, 1), 1),
    **{f"{split}_dataset_cfg": cfg},
  )
  with pytest.raises(ValueError, match=r"6 is not .* the 4 .* another BATCH"):
    run_data.bind(plan)


def _srun(job, count, index):
  """Returns the environment of a task of `srun --ntasks=COUNT`."""
  return {
    "SLURM_JOB_ID": str(job),
    "SLURM_STEP_NODELIST": "localhost",
    "SLURM_STEP_NUM_NODES": "1",
    "SLURM_STEP_NUM_TASKS": str(count),
    "SLURM_NTASKS": str(count),
    "SLURM_PROCID": str(index),
    "SLURM_LOCALID": str(index),
  }


def test_a_step_of_several_tasks_is_a_cluster(monkeypatch):
  for name in _srun(0, 1, 0):
    monkeypatch.delenv(name, raising=False)
  assert not multihost.is_one_of_several()
  for name, value in _srun(1, 1, 0).items():
    monkeypatch.setenv(name, value)
  assert not multihost.is_one_of_several()
  # This is a shell that salloc opened.
  monkeypatch.setenv("SLURM_NTASKS", "2")
  assert not multihost.is_one_of_several()
  monkeypatch.setenv("SLURM_STEP_NUM_TASKS", "2")
  assert multihost.is_one_of_several()
  # This is the script of sbatch itself.
  monkeypatch.delenv("SLURM_STEP_NODELIST")
  assert not multihost.is_one_of_several()


def _free_job():
  """Returns a job number for which the port that JAX derives is free."""
  for job in range(os.getpid(), os.getpid() + 100):
    with socket.socket() as probe:
      if probe.connect_ex(("localhost", job % 2**12 + 65536 - 2**12)):
        return job
  raise AssertionError("no port is free")


@pytest.mark.slow
@pytest.mark.parametrize("is_real", [False, True])
def test_two_tasks_of_srun_evaluate_together(base, tmp_path, is_real):
  prompt = tmp_path / "prompt.npy"
  np.save(prompt, np.ones((tiny.PROMPT_LENGTH, tiny.WIDTH), np.float32))
  command = [
    *(sys.executable, "-m", "t5x.eval"),
    f"--gin_file={started.TESTS}/testdata/tiny.gin",
    "--gin_file=gin/methods/prompt_tuning.gin",
    "--gin_file=gin/prompts/from_file.gin",
    "--gin_file=gin/runs/eval.gin",
    f"--gin.MIXTURE_OR_TASK_NAME='{tiny.TASK}'",
    "--gin.MIXTURE_OR_TASK_MODULE='tiny'",
    "--gin.partitioning.PjitPartitioner.num_partitions=1",
    f"--gin.BATCH_SIZE={tiny.BATCH_SIZE}",
    f"--gin.PROMPT_FILE='{prompt}'",
    f"--gin.INITIAL_CHECKPOINT_PATH='{base}'",
    f"--gin.EVAL_OUTPUT_DIR='{tmp_path / 'out'}'",
  ]
  path = os.pathsep.join([str(started.TESTS), os.environ.get("PYTHONPATH", "")])
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
