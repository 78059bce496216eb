"""Tests of the evaluation command that a run prints at its end."""

import shlex

import pytest

import prompt_tuning
from prompt_tuning.training import next_steps

MODEL = "gin/models/ladder_s.gin"
BEST = {"step": 2600, "score": 61.125}


def _describe(folder, gin_files, bindings=(), flags=(), best=BEST, **options):
  return next_steps.describe(
    str(folder), best, gin_files, bindings, flags, **options
  )


def _words(note):
  command = note.partition("Evaluate it with:\n")[2]
  return shlex.split(command.replace("\\\n", ""))


@pytest.mark.parametrize(
  ("word", "expected"),
  [
    ("--gin.TASK='cb'", "--gin.TASK=\"'cb'\""),
    ("'cb','rte'", "''\"'\"'cb'\"'\"','\"'\"'rte'\"'\"''"),
    ("--gin.X='$a'", "'--gin.X='\"'\"'$a'\"'\"''"),
  ],
)
def test_shells_read_a_quoted_word(word, expected):
  assert next_steps.quoted(word) == expected
  assert shlex.split(next_steps.quoted(word)) == [word]


@pytest.mark.parametrize(
  "gin_files",
  [
    ["gin/recipes/prompt_tuning.gin"],
    ["gin/methods/prompt_tuning.gin", "gin/runs/train.gin"],
    ["gin/recipes/residual_prompt.gin"],
  ],
)
def test_of_a_prompt(tmp_path, gin_files):
  (tmp_path / "prompt.safetensors").touch()
  note = _describe(
    tmp_path,
    [
      MODEL,
      *gin_files,
      "gin/prompts/random_uniform.gin",
      "gin/decoding/rank.gin",
    ],
    [
      "TASK = 'ladder_cb'",
      "PROMPT_LENGTH = 20",
      "TRAIN_STEPS_RELATIVE = 100",
      "LEARNING_RATE = 0.1",
      f"MODEL_DIR = '{tmp_path}'",
      "train/utils.DatasetConfig.seed = 3",
      "utils.SaveCheckpointConfig.keep = 3",
      "prompts.random_uniform.minval = 0.0",
      "network.T5Config.remat = True",
    ],
    ["--tfds_data_dir=my data"],
  )
  assert note.startswith("Best evaluation: 61.12, at step 2600.\nPrompt: ")
  assert _words(note) == [
    *("python", "-m", "t5x.eval", f"--gin_file={MODEL}"),
    "--gin_file=gin/recipes/evaluate_prompt.gin",
    "--gin_file=gin/decoding/rank.gin",
    "--gin.TASK='ladder_cb'",
    "--gin.network.T5Config.remat=True",
    f"--gin.PROMPT_FILE='{tmp_path}/prompt.safetensors'",
    f"--gin.EVAL_OUTPUT_DIR='{tmp_path}-eval'",
    "--tfds_data_dir=my data",
  ]


def test_of_a_prompt_and_an_initialiser_of_ones_own(tmp_path):
  """A user's gin file is kept, and from_file.gin then replaces its prompt."""
  (tmp_path / "prompt.safetensors").touch()
  (tmp_path / "mine.gin").write_text(
    "PROMPT = @mean.around_mean()\nPROMPT_LENGTH = 5\nSPLIT = 'train'\n"
  )
  paths = [str(tmp_path), prompt_tuning.gin_search_path()]
  note = _describe(
    tmp_path,
    [
      MODEL,
      "gin/methods/prompt_tuning.gin",
      "mine.gin",
      "gin/runs/train.gin",
    ],
    ["mean.around_mean.stddev = 0.5"],
    best=None,
    paths=paths,
  )
  assert note.startswith("Prompt: ")
  assert _words(note)[4:7] == [
    "--gin_file=gin/recipes/evaluate_prompt.gin",
    "--gin_file=mine.gin",
    "--gin_file=gin/prompts/from_file.gin",
  ]
  assert "stddev" not in note


@pytest.mark.parametrize(
  "recipe", ["prompt_and_lora.gin", "multitask_prompt.gin"]
)
def test_of_a_prompt_from_a_file_that_is_in_the_checkpoint(tmp_path, recipe):
  note = _describe(
    tmp_path,
    [MODEL, f"gin/recipes/{recipe}", "gin/prompts/from_file.gin"],
    ["TASK = 'ladder_cb_prefixed'", "PROMPT_FILE = 'old.safetensors'"],
  )
  assert f"--gin.CHECKPOINT_PATH='{tmp_path}'" in _words(note)
  assert "--gin.EVAL_ASSIGNMENT_MAP=None" in _words(note)


def test_of_another_method(tmp_path):
  for checkpoint in (tmp_path, tmp_path / f"checkpoint_{BEST['step']}"):
    checkpoint.mkdir(exist_ok=True)
    note = _describe(
      tmp_path,
      [MODEL, "gin/recipes/lora.gin", "gin/optimizers/adamw.gin"],
      ["LORA_RANK = 2", "TASK = 'ladder_cb'", "EVAL_PERIOD = 5"],
    )
    assert _words(note)[4:] == [
      "--gin_file=gin/methods/lora.gin",
      "--gin_file=gin/runs/eval.gin",
      "--gin.LORA_RANK=2",
      "--gin.TASK='ladder_cb'",
      f"--gin.CHECKPOINT_PATH='{checkpoint}'",
      f"--gin.EVAL_OUTPUT_DIR='{tmp_path}-eval'",
    ]


def test_of_a_recipe_of_ones_own(tmp_path):
  """evaluate_prompt.gin replaces a user's recipe, whose task is kept."""
  (tmp_path / "prompt.safetensors").touch()
  (tmp_path / "mine.gin").write_text(
    "include './gin/recipes/prompt_tuning.gin'\n"
    "TASK = 'ladder_cb'\nPROMPT_LENGTH = 5\nLEARNING_RATE = 0.1\n"
  )
  note = _describe(
    tmp_path,
    [f"./{MODEL}", "mine.gin", "gin/runs/by_length.gin"],
    paths=[str(tmp_path), prompt_tuning.gin_search_path()],
  )
  assert _words(note)[3:] == [
    f"--gin_file={MODEL}",
    "--gin_file=gin/recipes/evaluate_prompt.gin",
    "--gin.TASK='ladder_cb'",
    f"--gin.PROMPT_FILE='{tmp_path}/prompt.safetensors'",
    f"--gin.EVAL_OUTPUT_DIR='{tmp_path}-eval'",
  ]
