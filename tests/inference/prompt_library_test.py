"""Tests of a library of prompts: its list, similarities and mixtures."""

import dataclasses
import pathlib

import documented
import numpy as np
import pytest

from prompt_tuning import prompt_files
from prompt_tuning.commands import console
from prompt_tuning.inference import prompt_library

LADDER = documented.ROOT / "checkpoints" / "ladder_m" / "prompts"


def _source(array, task, model="m"):
  header = prompt_files.PromptMetadata(model, "v", task=task)
  return prompt_library.Source(
    pathlib.Path(task), np.array(array, np.float32), header
  )


TARGET = _source([[1, 0], [0, 1]], "super_glue_rte_prefixed")
NEAR = _source([[3, 0], [1, 1]], "glue_mrpc")
FAR = _source([[0, 2], [0, -1]], "glue_sst2")


def test_similarities_are_those_of_means_and_of_pairs():
  found = prompt_library.similarities(TARGET.array, NEAR.array)
  # The means are (1/2, 1/2) and (2, 1/2). Among the four pairs, (1, 0) has the
  # cosines 1 and r, and (0, 1) has 0 and r.
  r = np.sqrt(1 / 2)
  means = 1.25 / (r * np.sqrt(4.25))
  assert found == pytest.approx((means, (1 + 2 * r) / 4))
  with pytest.raises(ValueError, match="one width, got 2 and 3"):
    prompt_library.similarities(TARGET.array, np.ones((1, 3)))


def test_prompts_of_the_same_data_or_of_another_model_do_not_serve():
  others = [
    *(_source(NEAR.array, x) for x in ("glue_rte_from_mrpc", "super_glue")),
    *(_source(NEAR.array, x) for x in ("glue_rte", "ladder_rte_sentinel")),
    _source(NEAR.array, "glue_cola", model="other"),
    dataclasses.replace(NEAR, file=TARGET.file.absolute()),
  ]
  found = prompt_library.candidates(TARGET, [*others, TARGET, FAR, NEAR])
  assert [*found] == [FAR, NEAR]
  frame = prompt_library.table([FAR, NEAR], TARGET)
  assert frame["task"].tolist() == ["glue_mrpc", "glue_sst2"]


def test_mixture_is_weighted_by_similarity():
  other = dataclasses.replace(NEAR, array=np.array([[1, 0], [1, 0.0]]))
  found = prompt_library.mixture(TARGET, [FAR, NEAR, NEAR, other], 2)
  _, first = prompt_library.similarities(TARGET.array, NEAR.array)
  expected = (first * NEAR.array + 0.5 * other.array) / (first + 0.5)
  np.testing.assert_allclose(found, expected, rtol=1e-6)
  with pytest.raises(ValueError, match="above 0, got 1"):
    prompt_library.mixture(TARGET, [FAR, NEAR], 2)
  longer = dataclasses.replace(NEAR, array=np.ones((3, 2)))
  with pytest.raises(ValueError, match=r"one length, got \[2, 3\]"):
    prompt_library.mixture(TARGET, [NEAR, longer], 2)


def test_command_lists_prompts_and_writes_a_mixture(tmp_path, capsys):
  (tmp_path / "other.safetensors").write_bytes(b"nothing")
  words = ["library", str(LADDER), str(tmp_path)]
  assert console.main(words) == 0
  assert len(capsys.readouterr().out.splitlines()) == 4
  target, output = LADDER / "ladder_cb.safetensors", tmp_path / "mixed.npy"
  words += [f"--target={target}", "--mix=2", f"--output={output}"]
  assert console.main(words) == 0
  assert "ladder_cb" not in capsys.readouterr().out
  mixed, _ = prompt_files.load_prompt(output)
  one, other = (
    prompt_files.load_prompt(LADDER / f"ladder_{x}.safetensors")[0]
    for x in ("boolq", "wsc")
  )
  assert ((mixed - one) * (mixed - other) <= 1e-6).all()  # Between the two.
