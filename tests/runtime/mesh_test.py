"""One device, eight devices and two processes train the same prompt."""

import collections
import json
import os
import pathlib
import socket
import subprocess
import sys

from flax import traverse_util
import jax
import numpy as np
import on_mesh
import pytest
import tiny

from prompt_tuning import prompt_files
from t5x import checkpoints, partitioning
from t5x.formats import stored_arrays

pytestmark = pytest.mark.slow

TESTS = pathlib.Path(__file__).parents[1]


@pytest.fixture(scope="module")
def one_device(base):
  return on_mesh.run(base, 1)


def _start(arguments, devices):
  return subprocess.Popen(
    [sys.executable, str(TESTS / "on_mesh.py"), *map(str, arguments)],
    env={
      **os.environ,
      "XLA_FLAGS": f"--xla_force_host_platform_device_count={devices}",
      "PYTHONPATH": os.pathsep.join(
        [str(TESTS), os.environ.get("PYTHONPATH", "")]
      ),
    },
    stdout=subprocess.PIPE,
    stderr=subprocess.PIPE,
    text=True,
  )


def _assert_same(results, number, expected):
  for name in ("losses", "losses_by_length", "prompt", "scores"):
    np.testing.assert_allclose(
      results[f"{number}/{name}"], expected[name], rtol=1e-4, atol=1e-4
    )
  np.testing.assert_array_equal(
    results[f"{number}/predictions"], expected["predictions"]
  )


def test_meshes_of_eight_devices_agree_with_one(base, one_device, tmp_path):
  out = tmp_path / "out.npz"
  process = _start([base, out, 1, 2, 4], devices=8)
  _, errors = process.communicate(timeout=600)
  assert process.returncode == 0, errors
  results = np.load(out)
  for number in (1, 2, 4):
    _assert_same(results, number, one_device)
    # The frozen embedding is divided among the devices that share a model.
    assert results[f"{number}/embedding_shards"] == number


def _run_two_processes(*arguments, devices=4):
  with socket.socket() as free:
    free.bind(("localhost", 0))
    address = f"localhost:{free.getsockname()[1]}"
  processes = [
    _start([*arguments, "--", address, 2, index], devices) for index in range(2)
  ]
  said = []
  for process in processes:
    output, errors = process.communicate(timeout=600)
    assert process.returncode == 0, errors
    said.append(output.splitlines()[-1:])  # Gloo says something, too.
  return said


def test_two_processes_agree_with_one(base, one_device, tmp_path):
  out = tmp_path / "out.npz"
  _run_two_processes(base, out, 2)
  _assert_same(np.load(out), 2, one_device)


def test_processes_whose_devices_take_turns_agree_with_one(
  base, one_device, tmp_path
):
  out = tmp_path / "out.npz"
  _run_two_processes(base, out, "interleaved", 1, devices=2)
  _assert_same(np.load(out), 1, one_device)


def test_run_of_two_processes_is_evaluated_saved_and_goes_on(base, tmp_path):
  _run_two_processes(base, tmp_path / "two", "train", devices=2)
  on_mesh.train(base, str(tmp_path / "one"))
  one, two = (
    json.loads((tmp_path / name / "record.json").read_text())
    for name in ("one", "two")
  )
  assert two["device"]["processes"] == 2
  assert two["status"] == "finished"
  for name in ("steps", "parameters", "evals", "best", "base"):
    assert two[name] == one[name], name
  prompts = [
    prompt_files.load_prompt(tmp_path / name / "prompt.safetensors")[0]
    for name in ("one", "two")
  ]
  np.testing.assert_allclose(*prompts, rtol=1e-4, atol=1e-4)


def test_signal_to_one_process_ends_both_at_the_same_place(base, tmp_path):
  one, other = _run_two_processes(base, tmp_path, "stopped", devices=1)
  assert one == other
  status, step = one[0].split()
  record = json.loads((tmp_path / "record.json").read_text())
  assert (record["status"], record["step"]) == (status, int(step))
  assert status == "interrupted"
  assert tiny.BASE_STEP + 4 <= int(step) < tiny.BASE_STEP + 1000
  assert checkpoints.open_checkpoint(str(tmp_path)).step == int(step)


def test_run_goes_on_on_other_meshes_and_numbers_of_processes(base, tmp_path):
  """8 devices, then two processes of 2, then 2 devices, against one device."""

  def run(devices, partitions, steps):
    process = _start(
      [base, tmp_path / "run", "go-on", partitions, steps], devices
    )
    _, errors = process.communicate(timeout=600)
    assert process.returncode == 0, errors

  def losses(folder):
    lines = (tmp_path / folder / "metrics.jsonl").read_text().splitlines()
    return [
      x["train/loss"] for x in map(json.loads, lines) if "train/loss" in x
    ]

  run(8, 2, 2)
  _run_two_processes(base, tmp_path / "run", "go-on", 1, 4, devices=2)
  run(2, 2, 6)
  for steps in (2, 4, 6):
    expected = on_mesh.go_on(base, str(tmp_path / "one"), 1, steps)
  prompts = [
    checkpoints.open_checkpoint(str(tmp_path / name)).arrays[
      "encoder/prompt/prompt"
    ]
    for name in ("run", "one")
  ]
  (got, wanted) = (stored_arrays.read(x) for x in prompts)
  assert expected.step == tiny.BASE_STEP + 6
  np.testing.assert_allclose(got, wanted, rtol=1e-4, atol=1e-4)
  np.testing.assert_allclose(losses("run"), losses("one"), rtol=1e-4)
  record = json.loads((tmp_path / "run" / "record.json").read_text())
  assert (record["device"]["count"], record["device"]["processes"]) == (2, 1)


def test_frozen_weights_stay_those_of_the_checkpoint(base):
  """Bit for bit, under jit, with the state's buffers donated."""
  loop, *_, checkpoint = on_mesh.start(base, 1)
  assert int(loop.train_state.step) == tiny.BASE_STEP
  prompt = np.asarray(loop.train_state.trainable["encoder"]["prompt"]["prompt"])
  loop.train_steps(on_mesh.batches(3), num_steps=3)
  frozen = traverse_util.flatten_dict(loop.train_state.frozen, sep="/")
  host = jax.sharding.SingleDeviceSharding(jax.devices()[0])
  stored = checkpoints.open_checkpoint(base).read(
    {
      name: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=host)
      for name, x in checkpoint.shapes.items()
    }
  )
  assert frozen.keys() == stored.keys()
  for name, array in stored.items():
    np.testing.assert_array_equal(frozen[name], array, err_msg=name)
  trained = np.asarray(
    loop.train_state.trainable["encoder"]["prompt"]["prompt"]
  )
  assert not np.allclose(trained, prompt)


def test_rules_are_those_of_t5x():
  rules = dict(partitioning.standard_logical_axis_rules())
  assert rules["batch"] == "data"
  assert {k for k, v in rules.items() if v == "model"} == {
    "vocab",
    "mlp",
    "heads",
    "joined_kv",
  }
  two = partitioning.standard_logical_axis_rules(2, 2, (("prompt", None),))
  assert [axis for name, axis in two if name == "embed"] == ["model", "data"]
  assert two[-1] == ("prompt", None)
  with pytest.raises(ValueError, match="of 1 or 2"):
    partitioning.standard_logical_axis_rules(3)


class _Chip:
  """What a mesh is made by, of a TPU in a slice of hosts of 2x2 chips."""

  platform = "tpu"
  core_on_chip = 0

  def __init__(self, kind, coordinates, slice_shape):
    self.device_kind = kind
    self.coords = coordinates
    self.id = int(np.ravel_multi_index(coordinates, slice_shape))
    x, y, z = coordinates
    self.process_index = 100 * (x // 2) + 10 * (y // 2) + z


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
  chips = [_Chip(kind, xyz, slice_shape) for xyz in np.ndindex(slice_shape)]
  with partitioning.using_devices(chips):
    partitioner = partitioning.PjitPartitioner(partitions)
  batch_size = 2 * partitioner.mesh.shape["data"]
  readers: collections.Counter[int] = collections.Counter()
  sizes = set()
  for host in {chip.process_index for chip in chips}:
    monkeypatch.setattr(jax, "process_index", lambda host=host: host)
    rows = partitioner.get_data_layout(batch_size).rows
    sizes.add(len(rows))
    readers.update(rows)
  assert sorted(readers) == list(range(batch_size))
  assert len(sizes) == len(set(readers.values())) == 1


def test_partitioner_refuses_what_does_not_fit():
  with pytest.raises(ValueError, match="does not divide"):
    partitioning.PjitPartitioner(num_partitions=3)
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
  tmp_path, base, monkeypatch, split
):
  layout = partitioning.PjitPartitioner.get_data_layout

  def of_four_devices(partitioner, batch_size):
    if batch_size % 4:
      raise ValueError(f"{batch_size} is not a multiple of 4")
    return layout(partitioner, batch_size)

  monkeypatch.setattr(
    partitioning.PjitPartitioner, "get_data_layout", of_four_devices
  )
  cfg = tiny.dataset_config(split="validation", batch_size=6)
  with pytest.raises(ValueError, match="6 is not a multiple of 4"):
    tiny.train(tmp_path, base, **{f"{split}_dataset_cfg": cfg})
  assert not list(tmp_path.glob("checkpoint_*"))
