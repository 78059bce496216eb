"""The text of --help."""

import os
import signal
import subprocess
import sys

import prompt_tuning
from t5x.configuration import command_flags

PATHS = [prompt_tuning.gin_search_path()]
MODEL = "gin/models/ladder_s.gin"


def test_help_shows_values_and_files():
  text = command_flags.help_text(
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


def test_help_imports_neither_jax_nor_tensorflow():
  program = (
    "import sys; from t5x.configuration import command_flags\n"
    "sys.argv = ['train']\n"
    "try: command_flags.show_help_if_asked('train')\n"
    "except SystemExit as e: assert not e.code\n"
    "print({'jax', 'tensorflow'} & set(sys.modules))"
  )
  done = subprocess.run(
    [sys.executable, "-c", program], capture_output=True, text=True, check=True
  )
  assert "A command names a model" in done.stdout
  assert done.stdout.endswith("set()\n")


def test_help_ends_quietly_if_nobody_reads_on():
  """As behind `| head`."""
  reader, writer = os.pipe()
  os.close(reader)
  with os.fdopen(writer) as closed:
    done = subprocess.run(
      [sys.executable, "-m", "t5x.train", "--help"],
      stdout=closed,
      stderr=subprocess.PIPE,
      text=True,
      check=False,
    )
  assert (done.returncode, done.stderr) == (-signal.SIGPIPE, "")
