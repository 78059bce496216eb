"""The rates of the input pipeline, of a small task."""

import ast
import pathlib
import subprocess
import sys

import pytest

ROOT = pathlib.Path(__file__).parents[2]
PROGRAM = """
import argparse
import input_pipeline
from prompt_tuning.data import vocabulary
from prompt_tuning.mini.ladder import vocabulary as words
args = argparse.Namespace(task="ladder_cb", inputs=28, targets=8, batch_size=16)
vocabulary.of_model(words.ladder())
print(input_pipeline.pipeline_rates(args, use_cached=False, seconds=0.1))
"""


@pytest.mark.slow
def test_rates_are_of_both_passes():
  found = subprocess.run(
    [sys.executable, "-c", PROGRAM],
    cwd=ROOT / "benchmarks",
    capture_output=True,
    text=True,
    check=True,
  )
  first, later = ast.literal_eval(found.stdout.splitlines()[-1])
  # The first pass has the preprocessing of every example in it.
  assert 0 < first < later
