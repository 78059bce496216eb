"""Tests of t5x.infer on a tiny model."""

import functools
import os
import signal

import jax
import numpy as np
import pytest
import seqio
import tensorflow as tf
import tiny

from t5x import decoding, infer, utils
from t5x.files import run_lock
from t5x.runs import command_line, inference, records


def _arguments(base, folder, **overrides):
  return {
    "mode": "predict",
    "model": tiny.make_model(),
    "dataset_cfg": tiny.dataset_config(split="test", shuffle=False),
    "restore_checkpoint_cfg": tiny.restore_config(base),
    "partitioner": tiny.make_partitioner(),
    "output_dir": str(folder),
    "checkpoint_period": 1,
    "fallback_init_rng": 0,
    **overrides,
  }


def _infer(base, folder, **overrides):
  arguments = _arguments(base, folder, **overrides)
  inference.infer(**arguments)
  return folder / f"{tiny.TASK}-{arguments['mode']}.jsonl-00000-of-00001"


@pytest.fixture(scope="module")
def whole(base, tmp_path_factory):
  """The predictions of a split; tests must not change them."""
  return _infer(base, tmp_path_factory.mktemp("whole"))


def test_predictions_are_lines_in_the_order_of_the_split(whole):
  lines = tiny.lines(whole)
  # 13 examples are not a multiple of the batch size.
  assert [line["inputs"]["idx"] for line in lines] == list(range(13))
  assert all(isinstance(line["prediction"], str) for line in lines)
  assert set(lines[0]["inputs"]) == {
    "idx",
    "inputs_pretokenized",
    "targets_pretokenized",
  }


@pytest.mark.slow
def test_task_of_a_mixture_that_lacks_the_split_is_left_out(base, tmp_path):
  """Only the other task has scores, which are negative."""
  source = seqio.FunctionDataSource(tiny.dataset, splits=["train"])
  task = seqio.TaskRegistry.get(tiny.TASK)
  task = task.replace(name="train_alone", source=source)
  seqio.TaskRegistry.add_provider(task.name, task)
  seqio.MixtureRegistry.add("two", ["train_alone", tiny.TASK], default_rate=1)
  cfg = tiny.dataset_config(
    mixture_or_task_name="two", split="test", shuffle=False
  )
  lines = tiny.lines(_infer(base, tmp_path, mode="score", dataset_cfg=cfg))
  assert [line["inputs"]["idx"] for line in lines] == list(range(13))
  assert all(line["score"] < 0 for line in lines)
  assert not list(tmp_path.glob("train_alone*"))


def test_more_chunks_read_no_example_more_often(base, tmp_path):
  reads = []
  rows = tiny.dataset("test").map(
    lambda x: {
      **x,
      "idx": tf.py_function(
        lambda i: reads.append(i) or i, [x["idx"]], tf.int32
      ),
    }
  )
  source = seqio.FunctionDataSource(
    lambda split, shuffle_files=False: rows, splits=["test"]
  )
  task = seqio.TaskRegistry.get(tiny.TASK).replace(name="read", source=source)
  cfg = tiny.dataset_config(mixture_or_task_name=task, split="test")
  inference.infer(**_arguments(base, tmp_path, dataset_cfg=cfg))
  # The reads count examples, count tokens, and get inputs and features.
  assert len(reads) == 4 * 13


def test_interrupted_inference_goes_on(base, whole, tmp_path, monkeypatch):
  calls = []
  get_infer_fn = inference.utils.get_infer_fn

  def failing(*args):
    infer_fn = get_infer_fn(*args)

    def call(*args):
      calls.append(1)
      if len(calls) in (1, 3):
        raise KeyboardInterrupt
      return infer_fn(*args)

    return call

  monkeypatch.setattr(inference.utils, "get_infer_fn", failing)
  partial = tmp_path / f"{whole.name}.partial"
  for number in (0, tiny.BATCH_SIZE):
    with pytest.raises(KeyboardInterrupt):
      _infer(base, tmp_path)
    # Without a line, nothing is kept, so other settings may use the folder.
    assert partial.exists() == bool(number)
  (chunk,) = partial.iterdir()
  assert len(chunk.read_text().splitlines()) == number
  parts = _infer(base, tmp_path)
  # The first chunk was not computed again.
  assert len(calls) == 4
  assert parts.read_text() == whole.read_text()
  assert not partial.exists()


def test_signal_ends_the_command_after_the_chunk(base, tmp_path, monkeypatch):
  get_infer_fn = inference.utils.get_infer_fn

  def killed(*args):
    os.kill(os.getpid(), signal.SIGTERM)
    return get_infer_fn(*args)

  monkeypatch.setattr(inference.utils, "get_infer_fn", killed)
  arguments = _arguments(base, tmp_path)
  with pytest.raises(SystemExit) as stop:
    command_line.run(
      functools.partial(inference.infer, **arguments),
      *("infer", "example", infer.show),
    )
  assert stop.value.code == 128 + signal.SIGTERM
  assert tiny.record(tmp_path)["status"] == "interrupted"
  (partial,) = tmp_path.glob("*.partial")
  (chunk,) = partial.iterdir()
  assert len(chunk.read_text().splitlines()) == tiny.BATCH_SIZE


@pytest.mark.slow
def test_inference_whose_folder_another_took_writes_no_more(base, tmp_path):
  def taken(event):
    (tmp_path / "run.lock").write_text("theirs")
    (tmp_path / "record.json").write_text("theirs")

  with pytest.raises(run_lock.LockLostError, match="taken by another run"):
    _infer(base, tmp_path, on_event=taken)
  assert (tmp_path / "record.json").read_text() == "theirs"
  assert not list(tmp_path.glob("*jsonl*"))


def test_predictions_of_another_model_are_not_taken_for_this_ones(
  whole, tmp_path
):
  before = whole.read_text()
  other = tiny.save_base(tmp_path, seed=1)
  with pytest.raises(ValueError, match="predictions from another model"):
    _infer(
      other,
      whole.parent,
      summarize_config_fn=lambda *_: pytest.fail("It was overwritten."),
    )
  assert whole.read_text() == before


def _infer_fn(model, base, method, batch_size):
  initializer = tiny.make_initializer(
    model, batch_size=batch_size, trains=False
  )
  state, _ = initializer.from_base_model(
    tiny.restore_config(base), jax.random.key(0)
  )
  infer_fn = utils.get_infer_fn(
    getattr(model, method),
    batch_size,
    initializer.train_state_axes,
    tiny.make_partitioner(),
  )
  return infer_fn, state


@pytest.mark.slow
@pytest.mark.parametrize("method", ["score_batch", "predict_batch"])
def test_by_length_the_results_are_those_of_the_padded_split(base, method):
  """Batches of several lengths give the same results in the same order."""
  rng = np.random.default_rng(0)
  number, longest, targets = 200, 48, 4
  sizes = rng.integers(1, longest + 1, (number, 1))
  inputs = rng.integers(3, 200, (number, longest))
  features = tiny.features(
    inputs * (np.arange(longest) < sizes),
    rng.integers(3, 200, (number, targets)),
  )
  lengths_seen, done = set(), []
  model = tiny.make_model()
  one_batch = getattr(model, method)

  def noted(params, batch):
    lengths_seen.add(batch["encoder_input_tokens"].shape)
    return one_batch(params, batch)

  model.noted = noted
  infer_fn, state = _infer_fn(model, base, "noted", batch_size=4)
  dataset = tf.data.Dataset.from_tensor_slices(features)
  outputs = infer_fn(dataset.enumerate(5), state, done.append)
  assert [index for index, _ in outputs] == list(range(5, 5 + number))
  assert 2 < len(lengths_seen) < 6
  assert sum(done) == number
  padded = jax.jit(one_batch)(state.params, features)
  found = np.stack([output for _, output in outputs])
  if method == "predict_batch":
    np.testing.assert_array_equal(found, padded)
  else:
    np.testing.assert_allclose(found, padded, rtol=1e-6)


@pytest.mark.slow
def test_samples_of_two_batches_are_independent(base):
  """Samples of the same example differ from batch to batch."""

  def samples(first):
    one = {k: np.ones(shape[1:], np.int32) for k, shape in shapes.items()}
    outputs = infer_fn(enumerate([one] * 12, first), state)
    return [tuple(tokens.tolist()) for _, tokens in outputs]

  shapes = tiny.input_shapes(batch_size=1)
  sample = functools.partial(decoding.temperature_sample, topk=0)
  model = tiny.make_model(decode_fn=sample)
  infer_fn, state = _infer_fn(model, base, "predict_batch", batch_size=1)
  first = samples(0)
  assert len(set(first)) > 1
  # A resumed run draws the samples of an uninterrupted one.
  assert first[4:] == samples(4)[:8]


@pytest.mark.parametrize(
  ("overrides", "message"),
  [
    ({"mode": "guess"}, "Expected mode to be Literal"),
    ({"checkpoint_period": 0}, "checkpoint_period to be int above 0, got 0"),
    ({"shard_id": 3, "num_shards": 2}, "shard_id < num_shards=2, got 3"),
    ({"shard_id": -1}, "shard_id < num_shards=1, got -1"),
    ({"num_shards": 0}, "shard_id < num_shards=0, got 0"),
    ({"fallback_init_rng": None}, "encoder/prompt/prompt would come from"),
  ],
)
def test_what_cannot_be_is_refused(base, tmp_path, overrides, message):
  with pytest.raises(ValueError, match=message):
    _infer(base, tmp_path / "out", **overrides)
  assert not list(tmp_path.glob("out/*.json*"))


@pytest.mark.parametrize(("parts", "status"), [(1, "interrupted"), (2, None)])
def test_killed_inference_is_not_said_to_run(base, tmp_path, parts, status):
  """With several parts, the status stays, as another part may still run."""
  records.RunRecord(str(tmp_path), "infer").write()
  with pytest.raises(ValueError, match="No checkpoint at"):
    _infer(f"{base}/no", tmp_path, num_shards=parts)
  assert tiny.record(tmp_path)["status"] == (status or "running")
