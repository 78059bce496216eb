"""Which vocabulary tasks have where there is no model."""

import pytest

from prompt_tuning import project_files, tasks
from prompt_tuning.data import vocabulary
from prompt_tuning.mini.ladder import vocabulary as ladder_vocabulary


@pytest.mark.parametrize(
  ("path", "task"), [(None, "ladder_boolq"), ("ladder", "mini_boolq")]
)
def test_vocabulary_of_the_ladder(monkeypatch, path, task):
  monkeypatch.setattr(vocabulary.MODEL_VOCABULARY, "in_use", None)
  assert tasks.use_vocabulary(path, task=task) == ladder_vocabulary.ladder()
  in_use = vocabulary.MODEL_VOCABULARY.in_use
  assert in_use == ladder_vocabulary.ladder()


def test_vocabulary_of_other_tasks_is_t5s(monkeypatch, tmp_path):
  monkeypatch.setattr(project_files, "project_folder", lambda: tmp_path)
  with pytest.raises(ValueError, match=r"t5_small/spiece\.model, .*'ladder'"):
    tasks.use_vocabulary(None, task="mini_boolq")
