"""Tests of sweeps: commands with lists, and the sheets made from them."""

import re

import pytest

from prompt_tuning.experiments import sheets, sweeps
from prompt_tuning.experiments.sheets import Sheet

FIXED = "--gin_file=gin/models/s.gin --gin_file=gin/recipes/r.gin"
LENGTHS = "--gin.PROMPT_LENGTH=1,5"
SEEDS = "--gin.RANDOM_SEED=0,1"
TASKS = "--gin.TASK='cb','rte'"
PROMPTS = "--gin_file=gin/prompts/{a,b}.gin"


def _fields(*lines):
  words = " ".join(lines).split()
  return sweeps.fields(words, words)


def _sheet(*lines):
  return Sheet.model_validate(_fields(*lines) | {"name": "x"})


@pytest.mark.parametrize(
  ("text", "values"),
  [
    ("1,5, 20", ["1", "5", "20"]),
    ("'a','b, c'", ["'a'", "'b, c'"]),
    (r"'it\'s, so',1", [r"'it\'s, so'", "1"]),
    ('["a", "b"],["c"]', ['["a", "b"]', '["c"]']),
    ('{"inputs": 64, "targets": 8}', ['{"inputs": 64, "targets": 8}']),
    ("@f(),%G", ["@f()", "%G"]),
  ],
)
def test_values_end_at_commas_outside_of_quotes_and_brackets(text, values):
  command = sweeps.parse([f"--gin.X={text}"])
  assert command.bindings == {"X": values}


@pytest.mark.parametrize(
  ("line", "files"),
  [
    ("--gin_file=p/{a,b}.gin", "p/a.gin,p/b.gin"),
    # Bash expands the first line to this one.
    ("--gin_file=p/a.gin --gin_file=p/b.gin", "p/a.gin,p/b.gin"),
    ("--gin_file=p/a.gin --gin_file=q/b.gin", "p/a.gin q/b.gin"),
    ("--gin_file=p/a.gin --gin.X=1 --gin_file=p/b.gin", "p/a.gin p/b.gin"),
    ("--gin_file=p/a.gin+p/b.gin", "p/a.gin+p/b.gin"),
    ("--gin_file p/a.gin", "p/a.gin"),
  ],
)
def test_gin_files(line, files):
  found = sweeps.parse(line.split()).gin_files
  places = (",".join("+".join(x) for x in place) for place in found)
  assert " ".join(places) == files


def test_bindings_and_flags():
  flags = ["--tfds_data_dir=a,b", "--alsologtostderr"]
  bindings = ["--gin.X=1", "--gin_bindings=Y = [1, 2]", "--gin.X=2"]
  command = sweeps.parse([*bindings, *flags])
  # Bash expands --gin.X={1,2} to both values of X.
  assert command.bindings == {"X": ["1", "2"], "Y": ["[1, 2]"]}
  assert command.flags == flags


BINDING = "--gin_bindings=X = 3"


@pytest.mark.parametrize(
  ("arguments", "message"),
  [
    (["--gin.X='a"], "X = 'a is not valid gin syntax"),
    (["--gin.X=a,b"], "Strings are quoted: --gin.X=\"'a','b'\""),
    (["--gin.X=1,,2"], "X = ,2 is not valid gin"),
    (["--gin.X="], "X = is not valid gin syntax"),
    (["--gin.X=1,2,1"], "A value is there twice in 1, 2, 1"),
    (["--gin_file=p/{a,b}"], "expected paths that end with .gin, got p/a,p/b"),
    (["p/a.gin"], "Expected --FLAG=VALUE, got p/a.gin"),
    (["--gin.X=1,2", BINDING], "both set X"),
    ([BINDING, "--gin.X=1"], "both set X"),
    (["--gin.X=1"], "a list of values that differ, got none"),
    (["--gin.X=1,1.0"], "a list of values that differ, got none"),
    ([LENGTHS, "--gin.MODEL_DIR='x'"], "--gin.MODEL_DIR is what a sweep"),
    ([LENGTHS, "--gin_search_paths=mine"], "Leave --gin_search_paths out"),
    (["--gin_file=a/p.gin,b/p.gin"], "have the same name: a/p.gin, b/p.gin"),
  ],
)
def test_what_cannot_be_read_or_swept_is_refused(arguments, message):
  arguments = [*FIXED.split(), *arguments]
  with pytest.raises(ValueError, match=re.escape(message)):
    sweeps.fields(arguments, arguments)


def test_commands_are_those_of_the_train_command():
  """Gin files keep their order, because later ones win."""
  sheet = _sheet(
    *(FIXED, PROMPTS, "--gin_file=gin/runs/train.gin", "--gin.TASK='cb'"),
    *("--gin.LENGTHS={'inputs':8}", "--gin.OPTIMIZER=None", LENGTHS),
    "--tfds_data_dir=tfds",
  )
  first, second, *_ = sheet.cells()
  assert first.name == "r-a-cb-prompt_length1"
  assert second.command == (
    *("python", "-m", "t5x.train", *FIXED.split()),
    *("--gin_file=gin/prompts/a.gin", "--gin_file=gin/runs/train.gin"),
    *("--gin.LENGTHS={'inputs':8}", "--gin.OPTIMIZER=None"),
    *("--gin.PROMPT_LENGTH=5", '--gin.TASK="cb"'),
    '--gin.MODEL_DIR="runs/x/r-a-cb-prompt_length5"',
    "--tfds_data_dir=tfds",
  )
  assert len(sheet.cells()) == 4


MODELS = "--gin_file=gin/models/{s,m}.gin"
CHECKPOINT = "data/pretrained/t5_1_1_lm100k_small/checkpoint_"


@pytest.mark.parametrize(
  ("line", "rows", "columns", "mean_over", "figure"),
  [
    (f"--gin_file=mine/all.gin {SEEDS}", [], "mine", None, "dots"),
    (f"{MODELS} {PROMPTS}", ["prompt"], "model", None, "lines"),
    (f"{FIXED} {LENGTHS}", ["recipe"], "prompt_length", None, "lines"),
    (
      f"{FIXED} {LENGTHS} {PROMPTS}",
      *(["prompt"], "prompt_length", None, "lines"),
    ),
    (
      f"{FIXED} --gin.a.B.rate=0.1,1,2 {LENGTHS}",
      *(["prompt_length"], "rate", None, "lines"),
    ),
    (
      f"{FIXED} {TASKS} {LENGTHS} {SEEDS}",
      *(["recipe"], "prompt_length", "task", "lines"),
    ),
    (f"{FIXED} {TASKS} {PROMPTS}", ["prompt"], "task", None, "dots"),
    (f"{FIXED} {SEEDS}", [], "recipe", None, "dots"),
    (f"{FIXED} --gin.TASK='cb' {SEEDS}", ["recipe"], "task", None, "dots"),
  ],
)
def test_layout(line, rows, columns, mean_over, figure):
  found = _sheet(line).layout
  assert (found.rows, found.columns) == (rows, columns)
  assert (found.mean_over, found.figure) == (mean_over, figure)


@pytest.mark.parametrize(
  ("line", "index", "name", "words"),
  [
    (  # Files that belong together.
      "--gin_file=gin/x/a.gin,gin/x/a.gin+gin/x/b.gin",
      *(-1, "a+b", "--gin_file=gin/x/a.gin --gin_file=gin/x/b.gin"),
    ),
    (  # Unnamed values: a cell's name does not depend on the other values.
      f"{FIXED} --gin.LABELS=['a','b'],['b'],None {LENGTHS}",
      *(0, "r-a_b-0cc7-prompt_length1", "--gin.LABELS=['a','b']"),
    ),
    (
      f"{FIXED} --gin.CKPT='{CHECKPOINT}1','{CHECKPOINT}2'",
      *(
        1,
        "r-data_pretrained_t5_1_1_lm100k_small_chec-0a5b",
        f'--gin.CKPT="{CHECKPOINT}2"',
      ),
    ),
    (f"{FIXED} --gin.X=['a'],None", -1, "r-None", "--gin.X=None"),
    (f"{FIXED} --gin.X='None',None", 0, "r-None-0504", '--gin.X="None"'),
    # A seed also shuffles the data.
    (f"{FIXED} {SEEDS}", 1, "r-seed1", "--gin.SHUFFLE_SEED=1"),
    (
      f"{FIXED} {SEEDS} --gin.SHUFFLE_SEED=5",
      *(1, "r-seed1", "--gin.SHUFFLE_SEED=5"),
    ),
  ],
)
def test_cells(line, index, name, words):
  cell = _sheet(line).cells()[index]
  assert cell.name == name
  assert {*words.split()} <= {*cell.command}


def test_program_without_a_score_is_refused():
  with pytest.raises(ValueError, match="no score"):
    sweeps.fields([LENGTHS], [], module="t5x.infer")


@pytest.mark.parametrize(
  ("first", "second", "is_same"),
  [
    (LENGTHS, f"{LENGTHS},20", True),
    ("--gin.a.X=[1],[2]", "--gin.a.X=[1],[2],None", True),
    (f"{LENGTHS} --gin.TASK='cb'", f"{LENGTHS} --gin.TASK='rte'", False),
    ("--gin.a.X=[1],[2]", "--gin.b.X=[1],[2]", False),
    ("--gin_file=g/a.gin,g/b.gin", "--gin_file=h/a.gin,h/b.gin", False),
  ],
)
def test_more_values_go_on_in_the_same_folder(first, second, is_same):
  names = [_fields(FIXED.split()[0], x)["name"] for x in (first, second)]
  assert (names[0] == names[1]) == is_same
  if first == LENGTHS:
    assert names[0].startswith("sweeps/prompt_length-")


def test_written_sheet_makes_the_same(tmp_path):
  arguments = [
    *(*FIXED.split(), PROMPTS, TASKS, SEEDS),
    "--gin.LENGTHS={'inputs': 8, 'targets': 2}",
    "--gin.LABELS=['a, b'],None",
    "--gin.WORDS=['😀']",
    "--gin.MIXED=[{'a': 1}, 2]",
    "--gin.network.T5Config.remat=True",
    "--gin.PATH='runs/${HOME}'",
    "--gin.RATE=1e-3,0.3",
  ]
  fields = sweeps.fields(arguments, arguments) | {"name": "x"}
  sheet = Sheet.model_validate(fields)
  del fields["name"]
  path = tmp_path / "x.toml"
  path.write_text(sheets.dumps(fields))
  read = sheets.parse(path, Sheet, name="x")
  # The labels of unnamed values are the given text.
  labels = [read.label("labels", x) for x in read.values["labels"]]
  assert labels == ["['a, b']", "None"]
  assert read == sheet
  expected = [cell.command for cell in sheet.cells()]
  assert [cell.command for cell in read.cells()] == expected
  assert "--gin.PATH='runs/${HOME}'" in expected[0]
