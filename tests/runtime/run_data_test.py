"""What a run reads: checked, and what is cut said for each use."""

import pytest
import seqio
import tiny

from t5x.runs import run_data


def read(tmp_path, base, train_eval):
  held_out = {"split": "validation", "shuffle": False}
  settings = tiny.make_plan(
    tmp_path,
    base,
    train_eval_dataset_cfg=tiny.dataset_config(**held_out, **train_eval),
    eval_steps=1,
  )
  return run_data.read(settings, run_data.bind(settings), shuffle_seed=0)


def test_what_is_cut_for_the_loss_is_not_said_of_the_scores(tmp_path, base):
  data = read(
    tmp_path, base, {"task_feature_lengths": {"inputs": 2, "targets": 2}}
  )
  data.evaluator.close()
  assert set(data.facts["cut"]) == {"training", "loss", "scores"}
  assert data.facts["cut"]["loss"][tiny.TASK]["inputs"]["examples"] > 0
  assert not data.facts["cut"]["scores"]
  assert any(
    x.startswith(f"For the loss: {tiny.TASK}, validation split")
    for x in data.notices
  )


def test_split_of_another_vocabulary_is_refused(tmp_path, base):
  features = dict.fromkeys(
    ("inputs", "targets"), seqio.Feature(seqio.ByteVocabulary(extra_ids=5))
  )
  task = seqio.TaskRegistry.get(tiny.TASK)
  other = task.replace(name="of_another", output_features=features)
  with pytest.raises(ValueError, match="vocabular"):
    read(tmp_path, base, {"mixture_or_task_name": other})
