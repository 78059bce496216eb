"""Reading gin files: macros, comments, includes and missing files."""

import pytest

import prompt_tuning
from t5x.configuration import reading, resolution

PATHS = [prompt_tuning.gin_search_path()]


def test_macros_have_values_and_comments(tmp_path):
  (tmp_path / "inner.gin").write_text("# How long.\nLENGTH = 1\nD = 2\n")
  (tmp_path / "mine.gin").write_text(
    "# Of the file.\n\n"
    'include "inner.gin"\n'
    "LENGTH = 100\n"
    'SPLITS = ["train",\n          "test"]\n'
    "# Must be given,\n# always.\n"
    "A = %gin.REQUIRED  # unlike %B\n"
    "  # as %C was before\n"
    'x.y = {"#": [%E]}\n'
  )
  paths = [str(tmp_path)]
  read = resolution.Bindings(["mine.gin"], paths=paths)
  assert {name: (x.text, x.comment) for name, x in read.macros.items()} == {
    "LENGTH": ("100", "How long."),
    "D": ("2", ""),
    "SPLITS": ("['train', 'test']", ""),
    "A": (reading.REQUIRED, "Must be given, always."),
  }
  assert read.lacking == {"A", "E"}
  assert read.files == ["mine.gin", "inner.gin"]


def test_later_files_win():
  files = ["gin/models/ladder_s.gin", "gin/recipes/prompt_tuning.gin"]
  macros = resolution.Bindings(files, paths=PATHS).macros
  assert macros["PROMPT"].text == "@prompts.class_labels()"
  assert macros["EVAL_PERIOD"].text == "100"
  assert macros["DROPOUT_RATE"].text == "0.0"
  assert macros["DROPOUT_RATE"].comment.startswith("The released configuration")


def test_missing_file_is_named_with_its_like(tmp_path):
  (tmp_path / "lora.gin").write_text("")
  with pytest.raises(ValueError, match=r"No gin file lara\.gin .*lora\.gin"):
    reading.find("lara.gin", [str(tmp_path)])
