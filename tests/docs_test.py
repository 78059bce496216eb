"""Tests that run the commands of README.md and docs/ on a miniature, briefly.

Only `gin_test` and `console_test` check pages that need accelerators or
SuperGLUE's data; `extending_test` checks docs/extending.md.
"""

import contextlib
import json
import re
import subprocess

import bucket
import documented
import pytest
import started

from prompt_tuning.interop import checkpoint_conversion

ROOT = documented.ROOT
# The order matters: later pages use the output of README's first run.
PAGES = ["README", "training", "methods", "your_own_data", "checkpoints"]
# `launch` and `tabulate` process a whole sheet, and `serve` does not end.
ENDLESS = {"serve", "launch", "tabulate"}
# tests/interop/hub_test.py tests these with a hub on this machine.
ON_THE_HUB = {"push"}
# The miniature has no file of its vocabulary or of its tasks' data.
LEFT_OUT = (
  *("--gin.VOCABULARY_FILE", "--tfds_data_dir"),
  "--gin.INITIAL_CHECKPOINT_PATH='gs://",
)
# A miniature and its tasks replace other models and their tasks.
REPLACEMENTS = {
  "gin/models/t5_.*.gin": "gin/models/ladder_xs.gin",
  "checkpoints/t5_small|google/flan-t5-base": "checkpoints/ladder_xs/lm_100",
  "mini_boolq|super_glue_cb": "ladder_boolq",
  "mini_rte": "ladder_rte",
  "gs://MY-BUCKET": f"gs://{bucket.BUCKET}",
  r"(STEPS_RELATIVE|EVAL_PERIOD)=\d+": r"\1=2",
  r"PROMPT_LENGTH=\d+": "PROMPT_LENGTH=5",
}
SHORT = ["--gin.EVAL_PERIOD=2", "--gin.EVAL_STEPS=1", "--gin.PROMPT_LENGTH=5"]

pytestmark = pytest.mark.slow


def _shortened(words):
  """Returns the words for the miniature, with two steps of training."""
  words = [x for x in words if not x.startswith(LEFT_OUT)]
  for old, new in REPLACEMENTS.items():
    words = [re.sub(old, new, word) for word in words]
  if "t5x.train" in words and "--gin.EVAL_PERIOD=2" not in words:
    words += SHORT[: 2 if any("lora" in word for word in words) else 3]
  if "tune" in words:
    folder = "--output=runs/tune/flan-t5-base-reviews"
    words = [*words[:2], folder, *words[2:], "--gin.TRAIN_STEPS_RELATIVE=2"]
  if "inspect" in words:
    words = [*words, "--vocabulary=ladder"]
  if "import" in words:
    words = [*words, "t5_small"]  # Leaves the repository's alone.
  module = ["-m", "prompt_tuning"] if words[0] == "prompt-tuning" else []
  return [*module, *words[1:]]


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
  """The pages' working directory, with their models and data."""
  folder = tmp_path_factory.mktemp("docs")
  (folder / "gin").symlink_to(ROOT / "gin")
  (folder / "checkpoints").mkdir()
  for path in (ROOT / "checkpoints").glob("ladder_*"):
    (folder / "checkpoints" / path.name).symlink_to(path)
  # The miniature's vocabulary has these words.
  rows = [f"Emma has{' a kite' * i}.,{i % 2 == 1}" for i in range(1, 21)]
  (folder / "reviews.csv").write_text("\n".join(["text,label", *rows]))
  (folder / "test.csv").write_text("text,label\nEmma has a kite.,True\n")
  (folder / "new.csv").write_text("text\nEmma has a red kite.\n")
  model = checkpoint_conversion.open_model(
    str(ROOT / "checkpoints" / "ladder_xs" / "lm_100"), "t5x"
  )
  checkpoint_conversion.convert(model, "hf", str(folder / "t5-v1_1-large"))
  return folder


@pytest.mark.parametrize("page", [*PAGES, "pods"])
def test_commands_of_a_page_run(folder, page):
  path = ROOT / ("README.md" if page == "README" else f"docs/{page}.md")
  programs = ("python", "prompt-tuning")
  commands = [
    x
    for x in documented.commands(path)
    if x[0] in programs and x[1] not in ENDLESS | ON_THE_HUB
  ]
  assert len(commands) >= 2
  in_bucket = page == "pods"
  with bucket.in_place_of_googles() if in_bucket else contextlib.nullcontext():
    for words in commands:
      started.python(*_shortened(words), cwd=folder, stdin=subprocess.DEVNULL)


def test_notebook_runs_and_the_prompt_helps(monkeypatch):
  """Runs docs/tuning_in_python.ipynb cell by cell."""
  monkeypatch.chdir(ROOT)
  notebook = json.loads((ROOT / "docs/tuning_in_python.ipynb").read_text())
  names = {}
  for cell in notebook["cells"]:
    if cell["cell_type"] == "code":
      exec("".join(cell["source"]), names)
  gain = names["tuned"]["accuracy"] - names["alone"]["accuracy"]
  assert gain > 20
  names["folder"].cleanup()
