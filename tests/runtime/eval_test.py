"""Tests of t5x.eval on a tiny model with a trained prompt."""

import functools
import shutil
import signal

import pytest
import seqio
import tiny

from t5x import checkpoints
from t5x import eval as eval_program
from t5x.files import run_lock
from t5x.runs import command_line, evaluation

_evaluate = functools.partial(
  tiny.evaluate,
  inference_evaluator_cls=functools.partial(
    seqio.Evaluator, logger_cls=[seqio.JSONLogger]
  ),
)


def test_saved_prompt_reproduces_its_evaluation(run, base, tmp_path):
  """A second evaluation gives the same metrics and replaces the first."""
  trained = tiny.record(run)["best"]
  model = tiny.model_with(run / "prompt.safetensors", base)
  for _ in range(2):
    metrics = _evaluate(tmp_path, base, model)
    assert metrics == trained["metrics"]
    record = tiny.record(tmp_path)
    assert record["kind"] == "eval"
    assert record["evals"][0]["metrics"] == metrics
    [lines] = tmp_path.glob("*-metrics.jsonl")
    assert len(lines.read_text().splitlines()) == 1


def test_signal_ends_it_after_a_batch(base, tmp_path):
  events = []

  def evaluate(on_event, **given):
    def signalled(event):
      on_event(event)
      if not events:
        signal.raise_signal(signal.SIGTERM)
      events.append(event)

    return _evaluate(tmp_path, base, on_event=signalled, **given)

  with pytest.raises(SystemExit) as stop:
    command_line.run(evaluate, "eval", "example", eval_program.show)
  assert [event.kind for event in events] == ["start", "step"]
  assert stop.value.code == 128 + signal.SIGTERM
  assert tiny.record(tmp_path)["status"] == "interrupted"
  assert run_lock.find_holder(str(tmp_path)) is None


def test_evaluation_whose_folder_another_took_writes_no_more(base, tmp_path):
  def taken(event):
    for name in ("run.lock", "record.json"):
      (tmp_path / name).write_text("theirs")

  with pytest.raises(run_lock.LockLostError, match="taken by another run"):
    _evaluate(tmp_path, base, on_event=taken)
  assert (tmp_path / "record.json").read_text() == "theirs"
  assert not list(tmp_path.glob("*.jsonl"))


@pytest.mark.slow
def test_moved_base_model_is_noticed(base, tmp_path):
  moved = tmp_path / "base"
  shutil.copytree(base, moved / "checkpoint_7")
  tiny.train(tmp_path / "run", moved, relative_steps=3)
  # A newer checkpoint beside it is not the base of the run.
  other = tiny.save_base(tmp_path / "other", seed=1)
  shutil.copytree(other, moved / "checkpoint_9")
  checkpoint = checkpoints.open_checkpoint(str(tmp_path / "run"))
  assert checkpoint.metadata["base_fingerprint"] == (
    checkpoints.open_checkpoint(base).fingerprint
  )
  for replace in (lambda _: None, lambda x: shutil.copytree(other, x)):
    shutil.rmtree(moved / "checkpoint_7")
    replace(moved / "checkpoint_7")
    with pytest.raises(ValueError, match="needs its base model"):
      checkpoints.open_checkpoint(str(tmp_path / "run"))
    (moved / "checkpoint_7").mkdir(exist_ok=True)


def test_task_without_metrics_is_told_from_one_without_examples():
  task = seqio.TaskRegistry.get(tiny.TASK).replace(name="bare", metric_fns=[])
  with pytest.raises(ValueError, match="No task of bare has both metric_fns"):
    evaluation.InferenceEvaluator(
      tiny.dataset_config(mixture_or_task_name=task, split="validation"),
      seqio.Evaluator,
      tiny.make_model(),
      tiny.make_partitioner(),
    )
