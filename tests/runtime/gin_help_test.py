"""Help, and errors that say what kind of gin file is missing."""

import os
import re
import signal
import subprocess
import sys

import pytest

import prompt_tuning
from t5x.configuration import gin_help, gin_macros

PATHS = [prompt_tuning.gin_search_path()]
MODEL = "gin/models/ladder_s.gin"


def test_macros_of_a_file():
  text = """# Of the file.

# How long.
LENGTH = 100
SPLITS = ["train",
          "test"]
other.function.x = 3
"""
  assert gin_macros.definitions(text) == {
    "LENGTH": gin_macros.Macro("100", "How long."),
    "SPLITS": gin_macros.Macro('["train", "test"]', ""),
  }


def test_later_files_win_and_comments_stay():
  macros = gin_macros.macros_of([MODEL, "gin/recipes/prompt_tuning.gin"], PATHS)
  assert macros["PROMPT"].value == "@prompts.class_labels()"
  assert macros["EVAL_PERIOD"].value == "100"
  assert macros["DROPOUT_RATE"].value == "0.0"
  assert macros["DROPOUT_RATE"].comment.startswith("The released configuration")


@pytest.mark.parametrize(
  ("gin_files", "names", "message"),
  [
    ([], {"MODEL"}, r"gin/models gives MODEL: .* one of .*t5_small_local"),
    ([MODEL], {"OPTIMIZER"}, "gin/methods gives OPTIMIZER"),
    ([MODEL], {"MODEL_DIR"}, "require MODEL_DIR. .*--gin.MODEL_DIR="),
    # There is a model's file, which leaves the path to the user.
    (
      ["gin/models/t5_1_1_xxl.gin"],
      {"INITIAL_CHECKPOINT_PATH"},
      "^The gin files require INITIAL_CHECKPOINT_PATH",
    ),
  ],
)
def test_what_is_missing_is_named(gin_files, names, message):
  assert re.search(message, gin_macros.what_gives(names, gin_files, PATHS))


def test_undefined_macros():
  undefined = gin_macros.undefined(["gin/runs/eval.gin"], PATHS)
  assert {"MODEL", "INITIAL_CHECKPOINT_PATH"} <= undefined
  assert "EVAL_OUTPUT_DIR" not in undefined


def test_comments_neither_use_macros_nor_are_values(tmp_path):
  (tmp_path / "mine.gin").write_text(
    "A = %gin.REQUIRED  # must be given, unlike %B\n"
    "  # as %C was before\n"
    'x.y = {"#": [%D]}\n'
  )
  definitions = gin_macros.macros_of(["mine.gin"], [str(tmp_path)])
  assert definitions["A"].value == gin_macros.REQUIRED
  assert gin_macros.undefined(["mine.gin"], [str(tmp_path)]) == {"D"}


def test_help_shows_values_and_files():
  text = gin_help.text(
    "train",
    [
      f"--gin_file={os.path.join(PATHS[0], MODEL)}",
      "--gin_file",
      os.path.join(PATHS[0], "gin/recipes/lora.gin"),
      "--gin.LORA_RANK=4",
      f"--gin_search_paths={PATHS[0]}",
      "--help",
    ],
  )
  assert "\n  LORA_RANK = 4\n" in text
  assert "\n  MODEL_DIR = required\n" in text
  for name in ("ladder_s", "model_tuning", "class_labels", "--tfds_data_dir"):
    assert f"\n  {name} " in text
  assert "repeat this" not in text  # absl's, which breaks lines.


@pytest.mark.parametrize("arguments", [[], ["--help"]])
def test_help_imports_neither_jax_nor_tensorflow(arguments):
  program = (
    "import sys; from t5x.configuration import gin_help\n"
    f"sys.argv = ['train', *{arguments}]\n"
    "try: gin_help.show_if_asked('train')\n"
    "except SystemExit as e: assert not e.code\n"
    "print({'jax', 'tensorflow'} & set(sys.modules))"
  )
  done = subprocess.run(
    [sys.executable, "-c", program], capture_output=True, text=True, check=True
  )
  assert "A command names a model" in done.stdout
  assert done.stdout.endswith("set()\n")


@pytest.mark.parametrize("program", ["train", "eval", "infer"])
def test_help_ends_quietly_if_nobody_reads_on(program):
  """As behind `| head`."""
  reader, writer = os.pipe()
  os.close(reader)
  with os.fdopen(writer) as closed:
    done = subprocess.run(
      [sys.executable, "-m", f"t5x.{program}", "--help"],
      stdout=closed,
      stderr=subprocess.PIPE,
      text=True,
      check=False,
    )
  assert (done.returncode, done.stderr) == (-signal.SIGPIPE, "")
