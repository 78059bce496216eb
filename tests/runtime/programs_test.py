"""t5x.eval and t5x.infer on a tiny model, and what ends any of the programs."""

import functools
import json
import shutil
import signal

import jax
import numpy as np
import pytest
import seqio
import tensorflow as tf
import tiny

from prompt_tuning import prompts
from prompt_tuning.training import base_model
from t5x import checkpoints, decoding, infer, train, utils
from t5x import eval as eval_program
from t5x.files import run_lock
from t5x.runs import evaluation

COMMANDS = {
  "train": (train.main, train.train),
  "eval": (eval_program.main, eval_program.evaluate),
  "infer": (infer.main, infer.infer),
}


def _arguments(program, base, folder, **overrides):
  if program == "train":
    return tiny.train_arguments(folder, base, **overrides)
  own = {
    "eval": {
      "dataset_cfg": tiny.dataset_config(
        split="validation", shuffle=False, task_feature_lengths=None
      ),
      "inference_evaluator_cls": functools.partial(
        seqio.Evaluator, logger_cls=[seqio.JSONLogger]
      ),
    },
    "infer": {
      "dataset_cfg": tiny.dataset_config(split="test", shuffle=False),
      "mode": "predict",
      "checkpoint_period": 1,
    },
  }
  return {
    "model": tiny.make_model(),
    "restore_checkpoint_cfg": tiny.restore_config(base),
    "partitioner": tiny.make_partitioner(),
    "output_dir": str(folder),
    "fallback_init_rng": 0,
    **own[program],
    **overrides,
  }


def _run(program, base, folder, **overrides):
  return COMMANDS[program][1](**_arguments(program, base, folder, **overrides))


@pytest.mark.parametrize(
  ("program", "starts"),
  [("train", [7, 8]), ("eval", [0, 0]), ("infer", [0, 8])],
)
def test_command_that_a_signal_ended_completes_its_work(
  base, predicted, tmp_path, capfd, program, starts
):
  """Ended after a step, batch or chunk of examples, here the first."""
  main, function = COMMANDS[program]
  arguments, seen = _arguments(program, base, tmp_path), []

  def run(on_event, **given):
    def noted(event):
      on_event(event)
      now = (event.kind, event.step)
      if now == ("step", 8) and now not in seen:
        signal.raise_signal(signal.SIGTERM)
      seen.append(now)

    return function(**arguments | given, on_event=noted)

  with pytest.raises(SystemExit) as stop:
    main(run)
  assert stop.value.code == 128 + signal.SIGTERM
  assert " 8; the same command completes it." in capfd.readouterr().err
  assert tiny.record(tmp_path)["status"] == "interrupted"
  assert run_lock.find_holder(str(tmp_path)) is None
  main(run)
  assert tiny.record(tmp_path)["status"] == "finished"
  assert [step for kind, step in seen if kind == "start"] == starts
  if program == "infer":
    assert _lines(tmp_path) == _lines(predicted)


@pytest.mark.parametrize(
  "program",
  [
    pytest.param(x, marks=[] if x == "eval" else pytest.mark.slow)
    for x in COMMANDS
  ],
)
def test_program_whose_folder_another_took_writes_no_more(
  base, tmp_path, program
):
  found = {}

  def contents():
    return {
      path: path.read_bytes()
      for path in tmp_path.rglob("*")
      if path.is_file() and "tfevents" not in path.name
    }

  def taken(event):
    if event.kind == "step":
      for name in ("run.lock", "predict-00000-of-00001.lock", "record.json"):
        (tmp_path / name).write_text("theirs")
      found.update(contents())

  with pytest.raises(run_lock.LockLostError, match="taken by another run"):
    _run(program, base, tmp_path, on_event=taken)
  assert contents() == found


def test_saved_prompt_reproduces_its_evaluation(run, base, tmp_path):
  """Also the second time, in place of the first; with its own model alone."""
  path = str(run / "prompt.safetensors")
  vocabulary = tiny.make_model().input_vocabulary
  prompt = base_model.prompt_for_model(path, base, vocabulary)
  model = tiny.make_model(prompt_init=prompts.from_array(prompt))
  for _ in range(2):
    metrics = _run("eval", base, tmp_path, model=model)
    assert metrics == tiny.record(run)["best"]["metrics"]
    record = tiny.record(tmp_path)
    assert record["kind"] == "eval"
    assert record["evals"][0]["metrics"] == metrics
    [lines] = tmp_path.glob("*-metrics.jsonl")
    assert len(lines.read_text().splitlines()) == 1
  other = tiny.save_base(tmp_path / "other", seed=1)
  with pytest.raises(ValueError, match="belongs to another model"):
    base_model.prompt_for_model(path, other, vocabulary)


@pytest.mark.slow
def test_moved_base_model_is_noticed(base, tmp_path):
  moved = shutil.copytree(base, tmp_path / "base" / "checkpoint_7")
  tiny.train(tmp_path / "run", moved.parent, relative_steps=3)
  # One beside it is not what the run began with.
  other = tiny.save_base(tmp_path / "other", seed=1)
  shutil.copytree(other, moved.parent / "checkpoint_9")
  checkpoints.open_checkpoint(str(tmp_path / "run"))
  shutil.rmtree(moved)
  for _ in range(2):
    with pytest.raises(ValueError, match="needs its base model"):
      checkpoints.open_checkpoint(str(tmp_path / "run"))
    shutil.copytree(other, moved, dirs_exist_ok=True)


def test_task_without_metrics_is_told_from_one_without_examples():
  task = seqio.TaskRegistry.get(tiny.TASK).replace(name="bare", metric_fns=[])
  with pytest.raises(ValueError, match="No task of bare has metric_fns"):
    evaluation.InferenceEvaluator(
      tiny.dataset_config(mixture_or_task_name=task, split="validation"),
      seqio.Evaluator,
      tiny.make_model(),
      tiny.make_partitioner(),
    )


def _lines(folder):
  (path,) = folder.glob("*.jsonl-*")
  return [json.loads(line) for line in path.read_text().splitlines()]


@pytest.fixture(scope="module")
def predicted(base, tmp_path_factory):
  """A folder with the predictions of a split; not to be changed."""
  folder = tmp_path_factory.mktemp("predicted")
  _run("infer", base, folder)
  return folder


def test_predictions_are_lines_in_the_order_of_the_split(predicted):
  lines = _lines(predicted)
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
  """And scores are log likelihoods."""
  source = seqio.FunctionDataSource(tiny.dataset, splits=["train"])
  task = seqio.TaskRegistry.get(tiny.TASK)
  task = task.replace(name="train_alone", source=source)
  seqio.TaskRegistry.add_provider(task.name, task)
  seqio.MixtureRegistry.add("two", ["train_alone", tiny.TASK], default_rate=1)
  cfg = tiny.dataset_config(
    mixture_or_task_name="two", split="test", shuffle=False
  )
  _run("infer", base, tmp_path, mode="score", dataset_cfg=cfg)
  lines = _lines(tmp_path)
  assert len(lines) == 13
  assert all(line["score"] < 0 for line in lines)


def test_predictions_of_another_model_are_not_taken_for_this_ones(
  predicted, tmp_path
):
  def never(*_):
    raise AssertionError("the configuration of what is there was overwritten")

  before = _lines(predicted)
  other = tiny.save_base(tmp_path, seed=1)
  with pytest.raises(ValueError, match="predictions of another model"):
    _run("infer", other, predicted, summarize_config_fn=never)
  assert _lines(predicted) == before


def _infer_fn(model, base, method, batch_size):
  state, _ = tiny.restore(base, model)
  infer_fn = utils.get_infer_fn(
    getattr(model, method),
    batch_size,
    jax.tree.map(lambda x: x.sharding, state),
    tiny.make_partitioner(),
  )
  return infer_fn, state


@pytest.mark.parametrize(
  "method",
  ["score_batch", pytest.param("predict_batch", marks=pytest.mark.slow)],
)
def test_by_length_the_results_are_those_of_the_padded_split(base, method):
  """In the order of the split, and from several lengths."""
  rng = np.random.default_rng(0)
  number, longest = 200, 48
  features = {
    name: rng.integers(3, 200, (number, *shape[1:]), np.int32)
    for name, shape in tiny.input_shapes().items()
  }
  sizes = rng.integers(1, longest + 1, (number, 1))
  features["encoder_input_tokens"] = rng.integers(
    3, 200, (number, longest), np.int32
  ) * (np.arange(longest) < sizes)
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
  np.testing.assert_allclose(found, padded, rtol=1e-6)


@pytest.mark.slow
def test_samples_of_two_batches_are_independent(base):
  """One example again and again, in batches of one."""

  def samples(first):
    dataset = tf.data.Dataset.from_tensors(
      {k: np.ones(shape[1:], np.int32) for k, shape in shapes.items()}
    ).repeat(12)
    outputs = infer_fn(dataset.enumerate(first), state)
    return [tuple(tokens.tolist()) for _, tokens in outputs]

  shapes = tiny.input_shapes(batch_size=1)
  sample = functools.partial(decoding.temperature_sample, topk=0)
  model = tiny.make_model(decode_fn=sample)
  infer_fn, state = _infer_fn(model, base, "predict_batch", batch_size=1)
  first = samples(0)
  assert len(set(first)) > 1
  # A run that goes on draws what it would have drawn.
  assert first[4:] == samples(4)[:8]


@pytest.mark.parametrize(
  ("overrides", "message"),
  [
    ({"mode": "guess"}, "Expected MODE"),
    ({"checkpoint_period": 0}, "checkpoint_period of at least 1, got 0"),
    ({"shard_id": 2, "num_shards": 2}, "shard_id < num_shards=2, got 2"),
    ({"shard_id": -1}, "shard_id < num_shards=1, got -1"),
    ({"fallback_init_rng": None}, "encoder/prompt/prompt would come from"),
  ],
)
def test_what_cannot_be_is_refused(base, tmp_path, overrides, message):
  with pytest.raises(ValueError, match=message):
    _run("infer", base, tmp_path / "out", **overrides)
  assert not list(tmp_path.glob("out/*.json*"))


@pytest.mark.parametrize(("parts", "status"), [(1, "interrupted"), (2, None)])
def test_killed_inference_is_not_said_to_run(base, tmp_path, parts, status):
  """Of several parts, another may."""
  record = {"kind": "infer", "status": "running"}
  (tmp_path / "record.json").write_text(json.dumps(record))
  with pytest.raises(ValueError, match="No checkpoint at"):
    _run("infer", f"{base}/no", tmp_path, num_shards=parts)
  assert tiny.record(tmp_path)["status"] == (status or "running")
