"""Tests of cluster options, as users type them."""

import sys

import pytest

from prompt_tuning.commands import console, launch, serve
from prompt_tuning.training import cluster_options


def test_values_are_numbers_truths_or_names():
  given = ["timeout_min=60", "slurm_account=0123", "use_srun=False", "a=b=c"]
  assert cluster_options.read("local", given) == {
    "timeout_min": 60,
    "slurm_account": "0123",
    "use_srun": False,
    "a": "b=c",
  }


@pytest.mark.parametrize(
  "submit",
  [
    lambda: serve.complete(
      console.parse(["serve", "--checkpoint=model", "--submit=slurm"])
    ),
    lambda: launch.run_cells(
      console.parse(["launch", "scale", "--submit=slurm"]), [], None
    ),
  ],
)
def test_submitting_without_submitit_is_refused_at_once(monkeypatch, submit):
  monkeypatch.setitem(sys.modules, "submitit", None)
  with pytest.raises(ValueError, match="--submit needs submitit: pip install"):
    submit()
