"""One device, four devices and two processes train the same prompt."""

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
from t5x.formats import stored_arrays, t5x_v3
from t5x.runs import run_data


@pytest.fixture(scope="module")
def one_device(base):
  return on_mesh.run(base, 1)


def _start(base, folder, jobs, devices=2, processes=1):
  """Starts processes, which do jobs together; returns what each says last."""
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
def two(base, tmp_path_factory):
  """What two processes of two devices compute on a mesh of four."""
  folder = tmp_path_factory.mktemp("two")
  _start(base, folder, [("compare", "two.npz", 2, "padded")], processes=2)
  return folder / "two.npz"


@pytest.fixture(scope="module")
def done(base, tmp_path_factory):
  """What four devices, then two processes, then two devices leave and say.

  A process takes longer to start than what it is asked, so each does it all.
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
    ("train", "two"),
    ("go_on", "run", 1, 4),
    ("prompts", "orbax", base, "class_labels", "from_file"),
    ("prompts", "v3_prompts", v3, "sampled_vocab"),
    ("stop", "stopped"),
  ]
  said = _start(base, folder, both, processes=2)
  _start(base, folder, [("go_on", "run", 2, 6)])
  return folder, said, v3


def _assert_same(path, number, *expected):
  results = np.load(path)
  for name, values in (item for x in expected for item in x.items()):
    if name == "embedding_shards":
      # The frozen embedding is divided among the devices that share a model.
      assert results[name] == number
    elif name == "predictions":
      np.testing.assert_array_equal(results[name], values)
    else:
      np.testing.assert_allclose(results[name], values, rtol=1e-4, atol=1e-4)


def test_two_processes_with_a_mesh_of_four_agree_with_one(two, one_device):
  _assert_same(two, 2, one_device)


@pytest.mark.slow
def test_other_meshes_agree_with_one_device(base, done, one_device):
  padded, by_length = one_device, on_mesh.run_by_length(base, 1)
  _assert_same(done[0] / "four_2.npz", 2, by_length)
  _assert_same(done[0] / "four_4.npz", 4, padded)
  _assert_same(done[0] / "turns.npz", 1, padded, by_length)


def _record(folder):
  return json.loads((folder / "record.json").read_text())


def _prompt(folder):
  return prompt_files.load_prompt(folder / "prompt.safetensors")[0]


@pytest.mark.slow
def test_run_of_two_processes_is_evaluated_saved_and_goes_on(
  base, done, tmp_path
):
  on_mesh.train(base, str(tmp_path))
  folders = (tmp_path, done[0] / "two")
  one, two = map(_record, folders)
  assert two["device"]["processes"] == 2
  assert two["status"] == "finished"
  for name in ("steps", "parameters", "evals", "best", "base"):
    assert two[name] == one[name], name
  np.testing.assert_allclose(*map(_prompt, folders), rtol=1e-4, atol=1e-4)


@pytest.mark.slow
def test_two_processes_do_with_each_prompt_what_one_does(base, done, tmp_path):
  """Initialised from either format of the base model, and from a file."""
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
    one, two = map(_record, folders)
    assert (one["status"], two["status"]) == ("finished", "finished")
    assert (one["device"]["processes"], two["device"]["processes"]) == (1, 2)
    assert (two["evals"], two["best"]) == (one["evals"], one["best"]), place
    if place.name == "train":
      np.testing.assert_allclose(*map(_prompt, folders), rtol=1e-4, atol=1e-4)
    elif place.name == "infer":
      lines, scores = [], []
      for x in folders:
        (path,) = x.glob(f"{tiny.TASK}-score.jsonl-*")
        lines.append(
          [json.loads(line) for line in path.read_text().splitlines()]
        )
        scores.append([line.pop("score") for line in lines[-1]])
      assert len(scores[0]) == 13
      assert lines[0] == lines[1]
      np.testing.assert_allclose(*scores, rtol=1e-4, atol=1e-4)


@pytest.mark.slow
def test_signal_to_one_process_ends_both_at_the_same_place(done):
  folder, (one, other) = done[0] / "stopped", done[1]
  assert one == other
  status, step = one[0].split()
  record = _record(folder)
  assert (record["status"], record["step"]) == (status, int(step))
  assert status == "interrupted"
  assert tiny.BASE_STEP + 4 <= int(step) < tiny.BASE_STEP + 1000
  assert checkpoints.open_checkpoint(str(folder)).step == int(step)


@pytest.mark.slow
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
  got, wanted = (
    stored_arrays.read(
      checkpoints.open_checkpoint(str(x)).arrays["encoder/prompt/prompt"]
    )
    for x in (run, tmp_path)
  )
  assert expected.step == tiny.BASE_STEP + 6
  np.testing.assert_allclose(got, wanted, rtol=1e-4, atol=1e-4)
  np.testing.assert_allclose(losses(run), losses(tmp_path), rtol=1e-4)
  device = _record(run)["device"]
  assert (device["count"], device["processes"]) == (2, 1)


def test_frozen_weights_stay_those_of_the_checkpoint(base):
  """Bit for bit, under jit, with the state's buffers donated."""
  loop, *_ = on_mesh.start(base, 1)
  assert int(loop.train_state.step) == tiny.BASE_STEP
  prompt = np.asarray(loop.train_state.trainable["encoder"]["prompt"]["prompt"])
  loop.train_steps(on_mesh.batches(3), num_steps=3)
  frozen = traverse_util.flatten_dict(loop.train_state.frozen, sep="/")
  stored = checkpoints.open_checkpoint(base).arrays
  assert frozen.keys() == stored.keys()
  for name, array in stored.items():
    np.testing.assert_array_equal(
      frozen[name], stored_arrays.read(array), err_msg=name
    )
  trained = loop.train_state.trainable["encoder"]["prompt"]["prompt"]
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
  plan = tiny.make_plan(tmp_path, base, **{f"{split}_dataset_cfg": cfg})
  with pytest.raises(ValueError, match="6 is not a multiple of 4"):
    run_data.bind(plan)
