"""Runs of t5x.train on a tiny model: what they leave, how they go on."""

import functools
import json
import os
import signal
import threading

from flax import traverse_util
import jax
import numpy as np
import pytest
import tiny

from prompt_tuning import prompt_files
from t5x import adafactor, checkpoints, train, trainer
from t5x.runs import command_line, training

pytestmark = pytest.mark.slow

LAST_STEP = tiny.BASE_STEP + 6


def _train(model_dir, base, **overrides):
  overrides.setdefault(
    "actions", {"INFER_EVAL": [tiny.save_best_prompt(model_dir)]}
  )
  return tiny.train(model_dir, base, **overrides).status


def _checkpoint(model_dir, model=None):
  """The state in a run's latest checkpoint: path -> array."""
  initializer = tiny.make_initializer(model)
  checkpointer = checkpoints.Checkpointer(
    initializer.train_state_shapes, tiny.make_partitioner(), str(model_dir)
  )
  state, run_info = checkpointer.restore_run(initializer.train_state_axes)
  checkpointer.close()
  return state, run_info


def _prompt(state):
  return np.asarray(state.trainable["encoder"]["prompt"]["prompt"])


class _At(trainer.BaseAction):
  """Calls a function at a step."""

  def __init__(self, step, function):
    self._step = step
    self._function = function

  def run(self, train_state, metrics_by_task):
    if int(train_state.step) == self._step:
      self._function()
    return False


def test_run_leaves_what_the_readme_says(run):
  names = set(os.listdir(run))
  assert {
    "prompt.safetensors",
    "record.json",
    "metrics.jsonl",
    "model-info.txt",
    "config.gin",
    "inference_eval",
    f"checkpoint_{LAST_STEP}",
  } <= names
  assert any(name.startswith("events.out.tfevents") for name in names)

  record = json.loads((run / "record.json").read_text())
  assert record["status"] == "finished"
  assert record["steps"] == {"first": tiny.BASE_STEP, "last": LAST_STEP}
  assert [e["step"] for e in record["evals"]] == [10, 13]
  assert record["parameters"]["trainable"] == tiny.PROMPT_LENGTH * tiny.WIDTH
  assert record["base"]["name"] == "tiny"
  assert record["data"]["eval_examples"] == {tiny.TASK: 20}
  assert record["peak_memory_bytes"] > 0
  best = max(record["evals"], key=lambda e: e["score"])
  assert record["best"]["score"] == best["score"]

  prompt, metadata = prompt_files.load_prompt(run / "prompt.safetensors")
  assert prompt.shape == (tiny.PROMPT_LENGTH, tiny.WIDTH)
  assert metadata.step == record["best"]["step"]
  assert metadata.score == record["best"]["score"]
  assert metadata.base_fingerprint == record["base"]["fingerprint"]

  lines = [
    json.loads(line)
    for line in (run / "metrics.jsonl").read_text().splitlines()
  ]
  assert {10, 13} == {line["step"] for line in lines}
  assert any("train/loss" in line for line in lines)
  assert any(f"inference_eval/{tiny.TASK}/accuracy" in line for line in lines)
  assert any(f"training_eval/{tiny.TASK}/loss" in line for line in lines)


def test_checkpoint_of_a_prompt_run_holds_no_base_weights(run):
  state, _ = _checkpoint(run)
  assert list(traverse_util.flatten_dict(state.trainable, sep="/")) == [
    "encoder/prompt/prompt"
  ]
  sizes = [
    os.path.getsize(os.path.join(folder, name))
    for folder, _, names in os.walk(run / f"checkpoint_{LAST_STEP}")
    for name in names
  ]
  assert sum(sizes) < 50_000


@pytest.mark.parametrize("where", [8, 10])
def test_stopped_run_goes_on_bit_for_bit(tmp_path, base, run, where):
  """Between two evaluations, and where one is due."""
  stats = {"stats_period": 1}
  event = threading.Event()
  status = _train(
    tmp_path / "parts",
    base,
    actions={
      "TRAIN": [_At(where, event.set)],
      "INFER_EVAL": [tiny.save_best_prompt(tmp_path / "parts")],
    },
    should_stop=event.is_set,
    **stats,
  )
  assert status == "interrupted"
  record = json.loads((tmp_path / "parts" / "record.json").read_text())
  assert record["status"] == "interrupted"
  assert record["step"] == where
  assert _train(tmp_path / "parts", base, **stats) == "finished"

  whole, _ = _checkpoint(run)
  parts, _ = _checkpoint(tmp_path / "parts")
  for a, b in zip(jax.tree.leaves(whole), jax.tree.leaves(parts), strict=True):
    np.testing.assert_array_equal(a, b)
  records = [
    json.loads((folder / "record.json").read_text())
    for folder in (run, tmp_path / "parts")
  ]
  assert records[0]["evals"] == records[1]["evals"]
  prompts = [
    prompt_files.load_prompt(folder / "prompt.safetensors")
    for folder in (run, tmp_path / "parts")
  ]
  np.testing.assert_array_equal(prompts[0][0], prompts[1][0])
  assert prompts[0][1] == prompts[1][1]


def test_finished_run_is_left_alone(base, copy):
  def contents():
    return {
      path.relative_to(copy): path.read_bytes()
      for path in copy.rglob("*")
      if path.is_file()
    }

  before = contents()
  assert _train(copy, base) == "finished"
  assert contents() == before


def test_run_that_was_killed_before_its_record_was_written(base, copy):
  """After the last checkpoint, that is."""
  path = copy / "record.json"
  whole = json.loads(path.read_text())
  path.write_text(json.dumps(whole | {"status": "running", "evals": []}))
  assert _train(copy, base) == "finished"
  record = json.loads(path.read_text())
  for name in ("status", "step", "steps", "evals", "best", "parameters"):
    assert record[name] == whole[name]


@pytest.mark.parametrize("what", ["base", "task", "length"])
def test_checkpoint_of_another_run_is_refused(
  tmp_path, base, copy, monkeypatch, what
):
  record = (copy / "record.json").read_bytes()
  overrides = {}
  if what == "base":
    base = tiny.save_base(tmp_path / "other", seed=1)
    message = "was trained on the base model"
  elif what == "task":
    other = tiny.dataset_config(mixture_or_task_name=tiny.OTHER_TASK)
    overrides = {"train_dataset_cfg": other}
    message = f"trained on {tiny.TASK}, this run is"
  else:
    monkeypatch.setattr(tiny, "PROMPT_LENGTH", 5)
    message = r"prompt: expected \(5, 16\), got \(4"
  with pytest.raises(ValueError, match=message):
    _train(copy, base, **overrides)
  assert (copy / "record.json").read_bytes() == record


@pytest.mark.parametrize("bad_step", [11, 13])
def test_nan_stops_and_keeps_the_last_good_checkpoint(tmp_path, base, bad_step):
  """Where nothing is due, and where a checkpoint is, whose loss is finite."""
  with pytest.raises(FloatingPointError, match=f"After step {bad_step}"):
    _train(
      tmp_path,
      base,
      stats_period=1,
      trainer_cls=lambda **arguments: trainer.Trainer(
        **arguments,
        learning_rate_fn=lambda step: jax.numpy.where(
          step < bad_step - 1, 0.3, jax.numpy.nan
        ),
      ),
    )
  record = json.loads((tmp_path / "record.json").read_text())
  assert record["status"] == "failed"
  assert (
    "not finite. The last good checkpoint is that of step 10."
    in (record["error"])
  )
  assert np.isfinite(_prompt(_checkpoint(tmp_path)[0])).all()


def test_early_stopping_stops_for_good(tmp_path, base):
  def train(steps=30):
    return _train(
      tmp_path,
      base,
      relative_steps=steps,
      period=1,
      actions={
        "INFER_EVAL": [
          trainer.EarlyStoppingAction(
            (tiny.TASK, "accuracy"), mode="max", patience=1, atol=100.0
          )
        ]
      },
    )

  for _ in range(2):
    assert train() == "stopped"
    record = json.loads((tmp_path / "record.json").read_text())
    assert (record["status"], record["step"]) == ("stopped", tiny.BASE_STEP + 2)
    # As it is if the run was killed before its record said so.
    record["status"] = "running"
    (tmp_path / "record.json").write_text(json.dumps(record))
  # And goes on with more steps, until it is to stop again.
  assert train(steps=31) == "stopped"
  record = json.loads((tmp_path / "record.json").read_text())
  assert (record["status"], record["step"]) == ("stopped", tiny.BASE_STEP + 3)


def test_signal_ends_the_command_after_the_step(tmp_path, base, capfd):
  def kill():
    os.kill(os.getpid(), signal.SIGTERM)

  arguments = tiny.train_arguments(
    tmp_path, base, actions={"TRAIN": [_At(10, kill)]}
  )
  with pytest.raises(SystemExit) as stop:
    train.main(functools.partial(training.train, **arguments))
  assert stop.value.code == 128 + signal.SIGTERM
  assert json.loads((tmp_path / "record.json").read_text())["step"] == 10
  assert (
    "Stopped at step 10; the same command resumes it." in capfd.readouterr().err
  )


def test_second_signal_stops_at_once():
  # A shell has what it starts in the background ignore it.
  before = signal.signal(signal.SIGINT, signal.default_int_handler)
  try:
    with command_line.StopSignals() as signals:
      signal.raise_signal(signal.SIGINT)
      assert signals.should_stop()
      with pytest.raises(KeyboardInterrupt):
        signal.raise_signal(signal.SIGINT)
  finally:
    signal.signal(signal.SIGINT, before)


@pytest.mark.parametrize(
  ("overrides", "message"),
  [
    ({"relative_steps": None}, "Give one of TRAIN_STEPS"),
    ({"relative_steps": -5}, "TRAIN_STEPS_RELATIVE=-5: expected 0 or more"),
    ({"eval_steps": -1}, "EVAL_STEPS=-1: expected at least one batch"),
    ({"eval_period": 4}, "must divide the largest"),
    ({"actions": {"EVAL": []}}, "Unknown action modes"),
  ],
)
def test_wrong_plan_is_refused(tmp_path, overrides, message):
  with pytest.raises(ValueError, match=message):
    tiny.make_plan(tmp_path, "no base", **overrides)


LATE = adafactor.Adafactor(step_offset=tiny.BASE_STEP + 1)


@pytest.mark.parametrize(
  ("overrides", "message"),
  [
    ({"total_steps": 3, "relative_steps": None}, "lies before the restored"),
    (
      {"train_dataset_cfg": tiny.dataset_config(split="trian")},
      "has no split 'trian'",
    ),
    (
      {
        "train_dataset_cfg": tiny.dataset_config(
          mixture_or_task_name="tiny_has_y"
        )
      },
      "near: tiny_has_x",
    ),
    (
      {"model": tiny.make_model(LATE), "actions": {}},
      f"at most {tiny.BASE_STEP}, the step",
    ),
  ],
)
def test_run_that_does_not_fit_is_refused(tmp_path, base, overrides, message):
  with pytest.raises(ValueError, match=message):
    _train(tmp_path, base, **overrides)
  assert not (tmp_path / "record.json").exists()


def test_folder_of_another_program_is_refused(tmp_path, base):
  (tmp_path / "record.json").write_text('{"kind": "eval"}')
  with pytest.raises(ValueError, match=r"the record of a run of t5x\.eval"):
    _train(tmp_path, base)


def test_folder_that_cannot_be_written_is_refused(tmp_path, base):
  (tmp_path / "file").write_text("kept")
  with pytest.raises(ValueError, match="cannot be written"):
    _train(tmp_path / "file", base)
  assert (tmp_path / "file").read_text() == "kept"
