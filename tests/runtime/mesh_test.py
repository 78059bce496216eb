"""One device, eight devices and two processes train the same prompt."""

import collections
import json

from flax import traverse_util
import jax
import numpy as np
import on_mesh
import pytest
import started
import tiny

from prompt_tuning import prompt_files
from t5x import checkpoints, partitioning
from t5x.formats import stored_arrays

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def one_device(base):
  return on_mesh.run(base, 1)


def _start(base, jobs, devices, *of_several):
  arguments = [base, json.dumps(jobs), *of_several]
  return started.start("on_mesh.py", arguments, devices)


@pytest.fixture(scope="module")
def done(base, tmp_path_factory):
  """What eight devices, then two processes of 2, then 2 devices leave and say.

  A process takes longer to start than what it is asked, so each does it all.
  """
  folder = tmp_path_factory.mktemp("meshes")

  def job(name, out, *numbers):
    return [name, str(folder / out), *numbers]

  eight = [job("compare", "eight.npz", 1, 2, 4), job("go_on", "run", 2, 2)]
  started.last_lines([_start(base, eight, 8)])
  address = started.free_address()
  both = [
    job("compare", "two.npz", 2),
    job("take_turns", "turns.npz", 1),
    job("train", "two"),
    job("go_on", "run", 1, 4),
    job("stop", "stopped"),
  ]
  said = started.last_lines(
    [_start(base, both, 2, address, 2, i) for i in range(2)]
  )
  started.last_lines([_start(base, [job("go_on", "run", 2, 6)], 2)])
  return folder, said


def _assert_same(results, number, expected):
  for name in ("losses", "losses_by_length", "prompt", "scores"):
    np.testing.assert_allclose(
      results[f"{number}/{name}"], expected[name], rtol=1e-4, atol=1e-4
    )
  np.testing.assert_array_equal(
    results[f"{number}/predictions"], expected["predictions"]
  )


@pytest.mark.parametrize("number", [1, 2, 4])
def test_meshes_of_eight_devices_agree_with_one(done, one_device, number):
  results = np.load(done[0] / "eight.npz")
  _assert_same(results, number, one_device)
  # The frozen embedding is divided among the devices that share a model.
  assert results[f"{number}/embedding_shards"] == number


@pytest.mark.parametrize(("out", "number"), [("two", 2), ("turns", 1)])
def test_two_processes_agree_with_one(done, one_device, out, number):
  _assert_same(np.load(done[0] / f"{out}.npz"), number, one_device)


def test_run_of_two_processes_is_evaluated_saved_and_goes_on(
  base, done, tmp_path
):
  on_mesh.train(base, str(tmp_path))
  folders = (tmp_path, done[0] / "two")
  one, two = (json.loads((x / "record.json").read_text()) for x in folders)
  assert two["device"]["processes"] == 2
  assert two["status"] == "finished"
  for name in ("steps", "parameters", "evals", "best", "base"):
    assert two[name] == one[name], name
  prompts = [
    prompt_files.load_prompt(x / "prompt.safetensors")[0] for x in folders
  ]
  np.testing.assert_allclose(*prompts, rtol=1e-4, atol=1e-4)


def test_signal_to_one_process_ends_both_at_the_same_place(done):
  folder, (one, other) = done[0] / "stopped", done[1]
  assert one == other
  status, step = one[0].split()
  record = json.loads((folder / "record.json").read_text())
  assert (record["status"], record["step"]) == (status, int(step))
  assert status == "interrupted"
  assert tiny.BASE_STEP + 4 <= int(step) < tiny.BASE_STEP + 1000
  assert checkpoints.open_checkpoint(str(folder)).step == int(step)


def test_run_goes_on_on_other_meshes_and_numbers_of_processes(
  base, done, tmp_path
):
  def losses(folder):
    lines = (folder / "metrics.jsonl").read_text().splitlines()
    return [
      x["train/loss"] for x in map(json.loads, lines) if "train/loss" in x
    ]

  run = done[0] / "run"
  for steps in (2, 4, 6):
    expected = on_mesh.go_on(base, str(tmp_path), 1, steps)
  prompts = [
    checkpoints.open_checkpoint(str(folder)).arrays["encoder/prompt/prompt"]
    for folder in (run, tmp_path)
  ]
  (got, wanted) = (stored_arrays.read(x) for x in prompts)
  assert expected.step == tiny.BASE_STEP + 6
  np.testing.assert_allclose(got, wanted, rtol=1e-4, atol=1e-4)
  np.testing.assert_allclose(losses(run), losses(tmp_path), rtol=1e-4)
  record = json.loads((run / "record.json").read_text())
  assert (record["device"]["count"], record["device"]["processes"]) == (2, 1)


def test_frozen_weights_stay_those_of_the_checkpoint(base):
  """Bit for bit, under jit, with the state's buffers donated."""
  loop, *_ = on_mesh.start(base, 1)
  assert int(loop.train_state.step) == tiny.BASE_STEP
  prompt = np.asarray(loop.train_state.trainable["encoder"]["prompt"]["prompt"])
  loop.train_steps(on_mesh.batches(3), num_steps=3)
  frozen = traverse_util.flatten_dict(loop.train_state.frozen, sep="/")
  host = jax.sharding.SingleDeviceSharding(jax.devices()[0])
  checkpoint = checkpoints.open_checkpoint(base)
  stored = checkpoint.read(
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
    rows = partitioner.local_rows(batch_size)
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
  layout = partitioning.PjitPartitioner.local_rows

  def of_four_devices(partitioner, batch_size):
    if batch_size % 4:
      raise ValueError(f"{batch_size} is not a multiple of 4")
    return layout(partitioner, batch_size)

  monkeypatch.setattr(
    partitioning.PjitPartitioner, "local_rows", of_four_devices
  )
  cfg = tiny.dataset_config(split="validation", batch_size=6)
  with pytest.raises(ValueError, match="6 is not a multiple of 4"):
    tiny.train(tmp_path, base, **{f"{split}_dataset_cfg": cfg})
  assert not list(tmp_path.glob("checkpoint_*"))
