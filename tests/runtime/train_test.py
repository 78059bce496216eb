"""Tests of t5x.train on a tiny model: its files, restarts and errors."""

import functools
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
from t5x.runs import command_line, records, training

LAST_STEP = tiny.BASE_STEP + 6


def _restored(model_dir):
  """Returns the state in a run's latest checkpoint."""
  initializer = tiny.make_initializer()
  checkpointer = checkpoints.Checkpointer(
    initializer.train_state_shapes, tiny.make_partitioner(), str(model_dir)
  )
  state, _ = checkpointer.restore_run(initializer.train_state_axes)
  checkpointer.close()
  return state


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

  record = tiny.record(run)
  assert record["status"] == "finished"
  assert record["steps"] == {"first": tiny.BASE_STEP, "last": LAST_STEP}
  assert [e["step"] for e in record["evals"]] == [10, 13]
  assert record["parameters"]["trainable"] == tiny.PROMPT_LENGTH * tiny.WIDTH
  assert record["base"]["name"] == "tiny"
  assert record["data"]["eval_examples"] == {tiny.TASK: 20}
  assert record["peak_memory_bytes"] > 0
  assert 0 < record["step_seconds"] < record["seconds"]
  best = max(record["evals"], key=lambda e: e["score"])
  assert record["best"]["score"] == best["score"]

  prompt, metadata = prompt_files.load_prompt(run / "prompt.safetensors")
  assert prompt.shape == (tiny.PROMPT_LENGTH, tiny.WIDTH)
  assert metadata.step == record["best"]["step"]
  assert metadata.score == record["best"]["score"]
  assert metadata.base_fingerprint == record["base"]["fingerprint"]

  lines = tiny.lines(run / "metrics.jsonl")
  assert {10, 13} == {line["step"] for line in lines}
  for name in ("inference_eval/{}/accuracy", "training_eval/{}/loss"):
    assert any(name.format(tiny.TASK) in line for line in lines)
  assert any("train/loss" in line for line in lines)
  # A checkpoint of a prompt has no weights of the base model.
  trained = traverse_util.flatten_dict(_restored(run).trainable, sep="/")
  assert list(trained) == ["encoder/prompt/prompt"]
  files = (run / f"checkpoint_{LAST_STEP}").rglob("*")
  assert sum(path.stat().st_size for path in files) < 50_000


@pytest.mark.parametrize("where", [8, pytest.param(10, marks=pytest.mark.slow)])
def test_stopped_run_goes_on_bit_for_bit(tmp_path, base, run, where):
  """A run resumes exactly after a stop between evaluations or at one."""
  event = threading.Event()
  stop = _At(where, event.set)
  for status, actions in (("interrupted", [stop]), ("finished", [])):
    actions = {
      "TRAIN": actions,
      "INFER_EVAL": [tiny.save_best_prompt(tmp_path)],
    }
    stopped = event.is_set if status == "interrupted" else lambda: False
    found = tiny.train(
      tmp_path, base, actions=actions, should_stop=stopped, stats_period=1
    )
    assert found.status == tiny.record(tmp_path)["status"] == status
    if status == "interrupted":
      assert tiny.record(tmp_path)["step"] == where
  one, two = (jax.tree.leaves(_restored(x)) for x in (run, tmp_path))
  assert len(one) == len(two) > 1
  for a, b in zip(one, two, strict=True):
    np.testing.assert_array_equal(a, b)
  assert tiny.record(run)["evals"] == tiny.record(tmp_path)["evals"]
  tiny.assert_same_prompt(run, tmp_path)


def test_finished_run_is_left_alone(base, copy):
  def contents():
    return {
      path.relative_to(copy): path.read_bytes()
      for path in copy.rglob("*")
      if path.is_file()
    }

  before = contents()
  assert tiny.train_prompt(copy, base).status == "finished"
  assert contents() == before
  # A run that was killed before its record was final is not run again either.
  whole = tiny.record(copy)
  tiny.edit_record(copy, status="running", evals=[])
  assert tiny.train_prompt(copy, base).status == "finished"
  for name in ("status", "step", "steps", "evals", "best", "parameters"):
    assert tiny.record(copy)[name] == whole[name]


@pytest.mark.parametrize(
  "what", ["base", pytest.param("task", marks=pytest.mark.slow), "length"]
)
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
  with pytest.raises(ValueError, match=f"{message}.* another folder"):
    tiny.train_prompt(copy, base, **overrides)
  assert (copy / "record.json").read_bytes() == record


@pytest.mark.slow
def test_nan_stops_and_keeps_the_last_good_checkpoint(tmp_path, base):
  """A prompt that becomes nan is not saved even if the loss is finite."""
  with pytest.raises(FloatingPointError, match=f"After step {LAST_STEP}"):
    tiny.train_prompt(
      tmp_path,
      base,
      stats_period=1,
      trainer_cls=lambda **arguments: trainer.Trainer(
        **arguments,
        learning_rate_fn=lambda step: jax.numpy.where(
          step < LAST_STEP - 1, 0.3, jax.numpy.nan
        ),
      ),
    )
  record = tiny.record(tmp_path)
  assert record["status"] == "failed"
  text = "not finite. The last good checkpoint is that of step 10."
  assert text in record["error"]
  (prompt,) = jax.tree.leaves(_restored(tmp_path).trainable)
  assert np.isfinite(prompt).all()


@pytest.mark.slow
def test_early_stopping_stops_for_good(tmp_path, base):
  def train(steps=30):
    stop = trainer.EarlyStoppingAction(
      (tiny.TASK, "accuracy"), mode="max", patience=1, atol=100.0
    )
    actions = {"INFER_EVAL": [stop]}
    return tiny.train(
      tmp_path, base, relative_steps=steps, period=1, actions=actions
    )

  def ending():
    record = tiny.record(tmp_path)
    return record["status"], record["step"]

  for _ in range(2):
    assert train().status == "stopped"
    assert ending() == ("stopped", tiny.BASE_STEP + 2)
    # A run that is killed at its end leaves such a record.
    tiny.edit_record(tmp_path, status="running")
  # With more steps, the run resumes until it stops again.
  assert train(steps=31).status == "stopped"
  assert ending() == ("stopped", tiny.BASE_STEP + 3)


def test_signal_ends_the_command_after_the_step(tmp_path, base, capfd):
  def kill():
    os.kill(os.getpid(), signal.SIGTERM)

  arguments = tiny.train_arguments(
    tmp_path, base, actions={"TRAIN": [_At(10, kill)]}
  )
  with pytest.raises(SystemExit) as stop:
    command_line.run(
      functools.partial(training.train, **arguments),
      *("train", "step", train.show),
    )
  assert stop.value.code == 128 + signal.SIGTERM
  assert tiny.record(tmp_path)["step"] == 10
  text = "Stopped at step 10; the same command completes it."
  assert text in capfd.readouterr().err


def test_second_signal_stops_at_once():
  # Background processes of a shell ignore SIGINT by default.
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
    ({"relative_steps": -5}, "relative_steps to be int of at least 0"),
    ({"eval_steps": -1}, "eval_steps to be int above 0, got -1"),
    ({"eval_period": 4}, "divide the largest"),
    ({"actions": {"EVAL": []}}, "Unknown action modes"),
  ],
)
def test_wrong_plan_is_refused(tmp_path, overrides, message):
  with pytest.raises(ValueError, match=message):
    tiny.make_plan(tmp_path, "no base", **overrides)


# At the base model's step, the decay would be a negative number's power.
LATE = tiny.multi_optimizer(
  (".*/prompt/.*", adafactor.Adafactor(step_offset=tiny.BASE_STEP + 1))
)


@pytest.mark.parametrize(
  ("overrides", "message"),
  [
    ({"total_steps": 3, "relative_steps": None}, "should end at step 3"),
    (
      {"train_dataset_cfg": tiny.dataset_config(split="trian")},
      "has no split 'trian'",
    ),
    (
      {"model": tiny.make_model(LATE), "actions": {}},
      f"step_offset to be at most {tiny.BASE_STEP}, the step",
    ),
  ],
)
def test_run_that_does_not_fit_is_refused(tmp_path, base, overrides, message):
  with pytest.raises(ValueError, match=message):
    tiny.train_prompt(tmp_path, base, **overrides)
  assert not (tmp_path / "record.json").exists()


def test_folder_of_something_else_is_refused(tmp_path, base):
  records.RunRecord(str(tmp_path), "eval").write()
  with pytest.raises(ValueError, match=r"the record of a t5x\.eval run"):
    tiny.train_prompt(tmp_path, base)
