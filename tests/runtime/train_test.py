"""Runs of t5x.train on a tiny model: what they leave, how they go on."""

import json
import signal

from flax import traverse_util
import jax
import numpy as np
import pytest
import tiny

from prompt_tuning import prompt_files
from t5x import adafactor, checkpoints, trainer
from t5x.runs import command_line

LAST_STEP = tiny.BASE_STEP + 6


def _train(model_dir, base, **overrides):
  overrides.setdefault(
    "actions", {"INFER_EVAL": [tiny.save_best_prompt(model_dir)]}
  )
  return tiny.train(model_dir, base, **overrides).status


def _restored(model_dir):
  """The state in a run's latest checkpoint."""
  initializer = tiny.make_initializer()
  checkpointer = checkpoints.Checkpointer(
    initializer.train_state_shapes, tiny.make_partitioner(), str(model_dir)
  )
  state, _ = checkpointer.restore_run(initializer.train_state_axes)
  checkpointer.close()
  return state


def test_run_leaves_what_the_readme_says(run):
  for name in ("model-info.txt", "config.gin", "inference_eval"):
    assert (run / name).exists()
  assert list(run.glob("events.out.tfevents*"))
  record = tiny.record(run)
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
  for name in ("inference_eval/{}/accuracy", "training_eval/{}/loss"):
    assert any(name.format(tiny.TASK) in line for line in lines)
  assert any("train/loss" in line for line in lines)
  # A checkpoint of a prompt has no weights of the base model.
  trained = traverse_util.flatten_dict(_restored(run).trainable, sep="/")
  assert list(trained) == ["encoder/prompt/prompt"]
  files = (run / f"checkpoint_{LAST_STEP}").rglob("*")
  assert sum(path.stat().st_size for path in files) < 50_000


def test_stopped_run_goes_on_bit_for_bit(tmp_path, base, run):
  """Stopped between two evaluations."""
  steps = []
  for status, stop in (("interrupted", 8), ("finished", None)):
    found = tiny.train(
      tmp_path,
      base,
      actions={"INFER_EVAL": [tiny.save_best_prompt(tmp_path)]},
      on_event=lambda event: steps.append(event.step),
      should_stop=lambda stop=stop: steps[-1] == stop,
      stats_period=1,
    )
    assert found.status == tiny.record(tmp_path)["status"] == status
    assert tiny.record(tmp_path)["step"] == (stop or LAST_STEP)
  one, two = (
    [
      tiny.record(folder)["evals"],
      prompt_files.load_prompt(folder / "prompt.safetensors"),
      jax.device_get(jax.tree.leaves(_restored(folder))),
    ]
    for folder in (run, tmp_path)
  )
  np.testing.assert_equal(two, one)


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
  # Nor is it run again if it was killed before its record said that it is over.
  whole = tiny.record(copy)
  tiny.edit_record(copy, status="running", evals=[])
  assert _train(copy, base) == "finished"
  for name in ("status", "step", "steps", "evals", "best", "parameters"):
    assert tiny.record(copy)[name] == whole[name]


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


@pytest.mark.slow
def test_early_stopping_stops_for_good(tmp_path, base):
  # It goes on with more steps, until it is to stop again.
  for steps, last in ((30, 2), (30, 2), (31, 3)):
    stop = trainer.EarlyStoppingAction(
      (tiny.TASK, "accuracy"), mode="max", patience=1, atol=100.0
    )
    actions = {"INFER_EVAL": [stop]}
    found = _train(
      tmp_path, base, relative_steps=steps, period=1, actions=actions
    )
    record = tiny.record(tmp_path)
    assert found == record["status"] == "stopped"
    assert record["step"] == tiny.BASE_STEP + last
    # As it is if the run was killed before its record said so.
    tiny.edit_record(tmp_path, status="running")


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


LATE = adafactor.Adafactor(step_offset=tiny.BASE_STEP + 1)


@pytest.mark.parametrize(
  ("overrides", "message"),
  [
    ({"relative_steps": None}, "Give one of TRAIN_STEPS"),
    ({"relative_steps": -5}, "0 or more; got"),
    ({"eval_steps": -1}, "EVAL_STEPS=-1: expected at least one batch"),
    ({"eval_period": 4}, "must divide the largest"),
    ({"actions": {"EVAL": []}}, "Unknown action modes"),
    ({"total_steps": 3, "relative_steps": None}, "is to end at step 3"),
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


def test_folder_of_something_else_is_refused(tmp_path, base):
  (tmp_path / "record.json").write_text('{"kind": "eval"}')
  with pytest.raises(ValueError, match=r"the record of a run of t5x\.eval"):
    _train(tmp_path, base)
  (tmp_path / "file").write_text("kept")
  with pytest.raises(ValueError, match="cannot be written"):
    _train(tmp_path / "file", base)
  assert (tmp_path / "file").read_text() == "kept"
