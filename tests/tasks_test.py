"""Tests of tasks' names and of their vocabulary without a model."""

import re

import pytest
import seqio

from prompt_tuning import project_files, tasks
from prompt_tuning.data import task_names, vocabulary
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


GLUE_AND_QA = (
  "glue",
  "squad",
  "mrqa",
  "mrpc_from",
  "mrpc_to",
  "qqp_from",
  "new_wiki",
)


def test_names_are_those_that_are_registered():
  registered = seqio.TaskRegistry.names() | seqio.MixtureRegistry.names()
  ours = {
    name.removesuffix("_prefixed").removesuffix("_sentinel")
    for name in registered
    if name.startswith(("super_glue", "mini", "ladder", "dpr", *GLUE_AND_QA))
    and not name.startswith("ladder_probe_")
    and not re.search("_v0[0-9]{2}|_v100", name)  # T5's own names.
  }
  listed = task_names.by_heading()
  assert {name for names in listed.values() for name in names} == ours
  tasks_, mixtures, *_ = listed.values()
  for names, suffixes in (
    (tasks_, ("_prefixed", "_sentinel")),
    (mixtures, ("_prefixed",)),
  ):
    assert {f"{x}{y}" for x in names for y in suffixes} <= registered
