"""Sweeps: the sheet that a command with lists stands for."""

import made_up
import pytest

from prompt_tuning.experiments import (
  pages,
  sweeps,
  tables,
  toml_files,
  train_commands,
)
from prompt_tuning.experiments.sheets import Sheet

FIXED = ("--gin_file=gin/models/s.gin", "--gin_file=gin/recipes/r.gin")
LENGTHS = "--gin.PROMPT_LENGTH=1,5"


def _sheet(*arguments, name="x"):
  fields = sweeps.fields(train_commands.parse(arguments), arguments)
  return Sheet.model_validate({"name": name, **fields})


def _name(*arguments):
  """Returns the name of the folder of a sweep."""
  command = train_commands.parse(arguments)
  return sweeps.name_of(sweeps.fields(command, arguments))


def _layout(*arguments):
  layout = _sheet(*FIXED, *arguments).layout
  return (layout.rows, layout.columns, layout.mean_over, layout.figure)


def test_commands_are_those_of_the_train_command():
  """Gin files in their places, as later ones win."""
  sheet = _sheet(
    *FIXED,
    "--gin_file=gin/prompts/{a,b}.gin",
    "--gin_file=gin/runs/train.gin",
    "--gin.TASK='cb'",
    "--gin.LENGTHS={'inputs': 8}",
    "--gin.OPTIMIZER=None",
    LENGTHS,
    "--tfds_data_dir=tfds",
  )
  first, second, *_ = sheet.cells()
  assert first.name == "r-a-cb-prompt_length1"
  assert second.command == (
    *("python", "-m", "t5x.train", *FIXED),
    *("--gin_file=gin/prompts/a.gin", "--gin_file=gin/runs/train.gin"),
    *('--gin.TASK="cb"', '--gin.LENGTHS={"inputs": 8}'),
    *("--gin.OPTIMIZER=None", "--gin.PROMPT_LENGTH=5"),
    '--gin.MODEL_DIR="runs/x/r-a-cb-prompt_length5"',
    "--tfds_data_dir=tfds",
  )
  assert len(sheet.cells()) == 4


@pytest.mark.parametrize(
  ("arguments", "expected"),
  [
    ([LENGTHS], (["recipe"], "prompt_length", None, "lines")),
    (
      [LENGTHS, "--gin_file=gin/prompts/{a,b}.gin"],
      (["prompt"], "prompt_length", None, "lines"),
    ),
    (
      ["--gin.a.B.rate=0.1,1,2", LENGTHS],
      (["prompt_length"], "rate", None, "lines"),
    ),
    (
      ["--gin.TASK='cb','rte'", LENGTHS, "--gin.RANDOM_SEED=0,1"],
      (["recipe"], "prompt_length", "task", "lines"),
    ),
    (
      ["--gin.TASK='cb','rte'", "--gin_file=gin/prompts/{a,b}.gin"],
      (["prompt"], "task", None, "dots"),
    ),
    (["--gin.RANDOM_SEED=0,1"], ([], "recipe", None, "dots")),
    (
      ["--gin.TASK='cb'", "--gin.RANDOM_SEED=0,1"],
      (["recipe"], "task", None, "dots"),
    ),
  ],
)
def test_layout(arguments, expected):
  assert _layout(*arguments) == expected


def test_seeds_alone_are_averaged(tmp_path, monkeypatch):
  monkeypatch.chdir(tmp_path)
  (tmp_path / "gin/methods").mkdir(parents=True)
  (tmp_path / "gin/methods/prompt.gin").touch()
  sheet = _sheet(
    "--gin_file=gin/methods/prompt.gin",
    "--gin.TASK='cb'",
    "--gin.RANDOM_SEED=0,1",
  )
  results = made_up.results(tmp_path, sheet)
  assert tables.table(results).rows == [["prompt", "45.0 ± 7.1 (2)"]]
  assert "x.png" in pages.sheet_files(results)


def test_last_file_names_the_place_of_seeds_where_no_kind_of_file_does():
  layout = _sheet("--gin_file=mine/all.gin", "--gin.RANDOM_SEED=0,1").layout
  assert (layout.rows, layout.columns) == ([], "mine")


def test_models_are_columns_by_their_size():
  layout = _sheet(
    "--gin_file=gin/models/{s,m}.gin",
    "--gin_file=gin/methods/{prompt_tuning,lora}.gin",
  ).layout
  assert (layout.rows, layout.columns) == (["method"], "model")
  assert (layout.figure, layout.x_label) == ("lines", "Parameters of the model")


def test_files_that_belong_together():
  both = "gin/methods/a.gin+gin/methods/b.gin"
  sheet = _sheet(f"--gin_file=gin/methods/a.gin,{both}")
  assert [x.name for x in sheet.cells()] == ["a", "a+b"]
  assert sheet.cells()[1].command[3:5] == (
    *("--gin_file=gin/methods/a.gin", "--gin_file=gin/methods/b.gin"),
  )


def test_values_without_a_name_are_labelled_as_they_were_given():
  sheet = _sheet(*FIXED, "--gin.LABELS=['a', 'b'],['b'],None", LENGTHS)
  commands = [x.command for x in sheet.cells()]
  assert "--gin.LABELS=['a', 'b']" in commands[0]
  assert "--gin.LABELS=None" in commands[-1]
  labels = {sheet.label("labels", x) for x in sheet.values["labels"]}
  assert labels == {"['a', 'b']", "['b']", "None"}


def test_names_do_not_depend_on_the_values_beside():
  where = "/data/models/pretrained/t5_1_1_lm100k_small/checkpoint_"
  one, other = (
    {
      x.name: x.command
      for x in _sheet(
        *FIXED, f"--gin.CKPT='{where}{a}','{where}{b}'", name="x"
      ).cells()
    }
    for a, b in ((100, 200), (50, 100))
  )
  (name,) = {*one} & {*other}
  assert one[name] == other[name]
  ours, theirs = (
    _name(f"--gin_file={x}/a.gin,{x}/b.gin") for x in ("gin/p", "my/p")
  )
  assert ours != theirs


@pytest.mark.parametrize(
  ("arguments", "message"),
  [
    (["--gin.X=1"], "There is no list to sweep"),
    ([LENGTHS, "--gin.MODEL_DIR='runs/x'"], "--gin.MODEL_DIR is what a sweep"),
    ([LENGTHS, "--gin_search_paths=mine"], "Leave --gin_search_paths out"),
    (
      ["--gin_file=a/p.gin,b/p.gin"],
      "Gin files of one name cannot be told apart: a/p.gin, b/p.gin",
    ),
  ],
)
def test_what_cannot_be_swept_is_refused(arguments, message):
  with pytest.raises(ValueError, match=message):
    _sheet(*FIXED, *arguments)


def test_more_values_go_on_in_the_same_folder():
  assert _name(*FIXED, LENGTHS) == _name(*FIXED, f"{LENGTHS},20")
  assert _name(*FIXED, LENGTHS) != _name(*FIXED, LENGTHS, "--gin.BATCH_SIZE=4")
  assert _name(*FIXED, LENGTHS).startswith("prompt_length-")
  assert _name(*FIXED, "--gin.a.X=[1],[2]") == _name(
    *FIXED, "--gin.a.X=[1],[2],None"
  )


def test_other_tasks_recipes_and_bindings_have_a_folder_of_their_own():
  recipes = ("--gin_file=gin/recipes/r.gin", "--gin_file=gin/recipes/s.gin")
  commands = [
    [recipe, f"--gin.TASK={task}", LENGTHS]
    for recipe in recipes
    for task in ("'cb'", "'rte'")
  ]
  commands += [[recipes[0], f"--gin.{x}.X=[1],[2]"] for x in "ab"]
  assert len({_name(*x) for x in commands}) == len(commands)


def test_a_seed_is_one_of_the_data_too():
  seeds = "--gin.RANDOM_SEED=0,1"
  (cell, _) = _sheet(*FIXED, seeds).cells()
  assert "--gin.SHUFFLE_SEED=0" in cell.command
  (_, cell) = _sheet(*FIXED, seeds, "--gin.SHUFFLE_SEED=5").cells()
  assert "--gin.SHUFFLE_SEED=5" in cell.command


def test_inference_has_no_score_to_sweep():
  command = train_commands.parse([*FIXED, LENGTHS])
  with pytest.raises(ValueError, match="no score"):
    sweeps.fields(command, [], module="t5x.infer")


def test_written_sheet_makes_the_same(tmp_path):
  arguments = [
    *FIXED,
    "--gin_file=gin/prompts/{a,b}.gin",
    "--gin.TASK='cb','rte'",
    "--gin.LENGTHS={'inputs': 8, 'targets': 2}",
    "--gin.LABELS=['a, b'],None",
    "--gin.WORDS=['😀']",
    "--gin.MIXED=[{'a': 1}, 2]",
    "--gin.network.T5Config.remat=True",
    "--gin.PATH='runs/${HOME}'",
    "--gin.RATE=1e-3,0.3",
    "--gin.RANDOM_SEED=0,1",
  ]
  fields = sweeps.fields(train_commands.parse(arguments), arguments)
  path = tmp_path / "x.toml"
  path.write_text(toml_files.dumps(fields))
  read = toml_files.parse(path, Sheet, name="x")
  assert read == Sheet.model_validate({"name": "x", **fields})
  expected = [cell.command for cell in _sheet(*arguments).cells()]
  assert [cell.command for cell in read.cells()] == expected
  assert "--gin.PATH='runs/${HOME}'" in expected[0]
