"""The commands of README.md and docs/, run: on a miniature, for a few steps.

Pages that need what is not here (accelerators, SuperGLUE's data) are checked by
`gin_test` and `console_test` only; docs/extending.md has a test of its own.
"""

import os
import pathlib
import re
import subprocess
import sys

import bucket
import documented
import pytest

from prompt_tuning.interop import checkpoint_conversion

ROOT = documented.ROOT
# In this order: later pages use what README's first run leaves.
PAGES = ["README", "training", "methods", "your_own_data", "checkpoints"]
# What pods.md has on a pod is a miniature on this machine.
POD = {
  "gin/models/t5_1_1_xxl.gin": "gin/models/ladder_xs.gin",
  "super_glue_cb": "ladder_boolq",
  "gs://MY-BUCKET": f"gs://{bucket.BUCKET}",
}
NOT_THERE = ("--gin.INITIAL_CHECKPOINT_PATH", "--tfds_data_dir")
# A miniature and its task replace T5 small, a Hugging Face model and theirs.
REPLACEMENTS = {
  "gin/models/t5_1_1_large.gin": "gin/models/ladder_xs.gin",
  "gin/models/t5_small_local.gin": "gin/models/ladder_xs.gin",
  "checkpoints/t5_small": "checkpoints/ladder_xs/lm_100",
  "mini_boolq": "ladder_boolq",
}
SHORT = ["--gin.EVAL_PERIOD=2", "--gin.EVAL_STEPS=1", "--gin.PROMPT_LENGTH=5"]

pytestmark = pytest.mark.slow
_RAN: list[list[str]] = []


def _shortened(words: list[str]) -> list[str]:
  """Returns a command for the miniature, with two steps of training."""
  # The miniature's vocabulary is not a file.
  words = [x for x in words if not x.startswith("--gin.VOCABULARY_FILE")]
  for old, new in REPLACEMENTS.items():
    words = [word.replace(old, new) for word in words]
  words = [
    re.sub(r"STEPS_RELATIVE=\d+|EVAL_PERIOD=\d+|PROMPT_LENGTH=\d+", _few, word)
    for word in words
  ]
  if "t5x.train" in words and "--gin.EVAL_PERIOD=2" not in words:
    words += SHORT[: 2 if any("lora" in word for word in words) else 3]
  if "inspect" in words:
    words = [*words, "--vocabulary=ladder"]
  if "import" in words:
    words = [*words, "t5_small"]  # Not in the repository, where others test.
  module = ["-m", "prompt_tuning"] if words[0] == "prompt-tuning" else []
  return [sys.executable, *module, *words[1:]]


def _few(match: re.Match) -> str:
  name = match[0].partition("=")[0]
  return f"{name}={5 if name == 'PROMPT_LENGTH' else 2}"


@pytest.fixture(scope="module")
def folder(tmp_path_factory) -> pathlib.Path:
  """Returns the pages' working directory, with their models and data."""
  folder = tmp_path_factory.mktemp("docs")
  (folder / "gin").symlink_to(ROOT / "gin")
  (folder / "checkpoints").mkdir()
  for path in (ROOT / "checkpoints").glob("ladder_*"):
    (folder / "checkpoints" / path.name).symlink_to(path)
  rows = [f"Film {i}.,{'True' if i % 2 else 'False'}" for i in range(20)]
  (folder / "reviews.csv").write_text("\n".join(["text,label", *rows]))
  (folder / "new.csv").write_text("text\nAnother film.\n")
  model = checkpoint_conversion.open_model(
    str(ROOT / "checkpoints" / "ladder_xs" / "lm_100"), "t5x"
  )
  checkpoint_conversion.convert(model, "hf", str(folder / "t5-v1_1-large"))
  return folder


def _run(words: list[str], folder: pathlib.Path, **environment: str) -> None:
  done = subprocess.run(
    _shortened(words),
    cwd=folder,
    env={
      **os.environ,
      "JAX_COMPILATION_CACHE_DIR": str(folder / "cache"),
      **environment,
    },
    capture_output=True,
    text=True,
  )
  assert done.returncode == 0, f"{' '.join(words)}\n{done.stderr[-3000:]}"


@pytest.mark.parametrize("page", PAGES)
def test_commands_of_a_page_run(folder, page):
  path = ROOT / ("README.md" if page == "README" else f"docs/{page}.md")
  programs = ("python", "prompt-tuning")
  commands = [
    x
    for x in documented.commands(path)
    if x[0] in programs and x[1] != "serve"  # It would not end.
  ]
  assert commands
  for words in commands:
    if words not in _RAN:  # Some commands are on two pages.
      _run(words, folder)
      _RAN.append(words)


def test_commands_of_the_page_on_pods_run_in_a_bucket(folder):
  commands = documented.commands(ROOT / "docs/pods.md")
  commands = [x for x in commands if x[:2] == ["python", "-m"]]
  assert len(commands) == 2
  with bucket.in_place_of_googles():
    for words in commands:
      words = [x for x in words if not x.startswith(NOT_THERE)]
      for old, new in POD.items():
        words = [word.replace(old, new) for word in words]
      _run(words, folder)
