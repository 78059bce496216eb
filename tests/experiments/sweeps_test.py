"""Sweeps: commands with lists, and the sheets that they stand for."""

import re

import pytest

from prompt_tuning.experiments import sheets, sweeps
from prompt_tuning.experiments.sheets import Sheet

FIXED = ("--gin_file=gin/models/s.gin", "--gin_file=gin/recipes/r.gin")
LENGTHS = "--gin.PROMPT_LENGTH=1,5"
SEEDS = "--gin.RANDOM_SEED=0,1"


def _sheet(*arguments, name="x"):
  fields = sweeps.fields(arguments, arguments)
  return Sheet.model_validate(fields | {"name": name})


@pytest.mark.parametrize(
  ("text", "values"),
  [
    ("1,5,20", ["1", "5", "20"]),
    ("1, 5", ["1", "5"]),
    ("'a','b'", ["'a'", "'b'"]),
    ("'a,b'", ["'a,b'"]),
    (r"'it\'s, so',1", [r"'it\'s, so'", "1"]),
    ('["yes, no", "no"]', ['["yes, no", "no"]']),
    ('["a", "b"],["c"]', ['["a", "b"]', '["c"]']),
    ('{"inputs": 64, "targets": 8}', ['{"inputs": 64, "targets": 8}']),
    ("(1, 2)", ["(1, 2)"]),
    ("@f(),%G", ["@f()", "%G"]),
  ],
)
def test_values_end_at_commas_outside_of_quotes_and_brackets(text, values):
  command = sweeps.parse([f"--gin.X={text}"])
  assert command.bindings == {"X": values}


@pytest.mark.parametrize(
  ("arguments", "files"),
  [
    (["--gin_file=p/{a,b}.gin"], [["p/a.gin", "p/b.gin"]]),
    (["--gin_file=p/a.gin,p/b.gin"], [["p/a.gin", "p/b.gin"]]),
    # As bash expands the first.
    (["--gin_file=p/a.gin", "--gin_file=p/b.gin"], [["p/a.gin", "p/b.gin"]]),
    (["--gin_file=p/a.gin", "--gin_file=q/b.gin"], [["p/a.gin"], ["q/b.gin"]]),
    (
      ["--gin_file=p/a.gin", "--gin.X=1", "--gin_file=p/b.gin"],
      [["p/a.gin"], ["p/b.gin"]],
    ),
    (["--gin_file=p/a.gin+p/b.gin"], [["p/a.gin+p/b.gin"]]),
    (["--gin_file", "p/a.gin"], [["p/a.gin"]]),
  ],
)
def test_gin_files(arguments, files):
  found = sweeps.parse(arguments).gin_files
  assert [["+".join(x) for x in place] for place in found] == files


@pytest.mark.parametrize(
  ("arguments", "bindings", "flags"),
  [
    # As bash writes --gin.X={1,2}.
    (
      ["--gin.X=1", "--gin.Y=3", "--gin.X=2"],
      {"X": ["1", "2"], "Y": ["3"]},
      [],
    ),
    (
      ["--gin_bindings=X = [1, 2]", "--tfds_data_dir=a,b", "--alsologtostderr"],
      {"X": ["[1, 2]"]},
      ["--tfds_data_dir=a,b", "--alsologtostderr"],
    ),
  ],
)
def test_bindings_and_flags(arguments, bindings, flags):
  command = sweeps.parse(arguments)
  assert (command.bindings, command.flags) == (bindings, flags)


BINDING = "--gin_bindings=X = 3"


@pytest.mark.parametrize(
  ("arguments", "message"),
  [
    (["--gin.X='a"], "X = 'a is not valid gin syntax"),
    (["--gin.X=[1,2"], "X = [1,2 is not valid gin syntax"),
    (["--gin.X=1,,2"], "X = ,2 is not valid gin"),
    (["--gin.X="], "X = is not valid gin syntax"),
    (["--gin.X=1,2,1"], "A value is there twice in 1, 2, 1"),
    (["--gin_file=p/{a,b}"], "expected paths that end with .gin, got p/a,p/b"),
    (["p/a.gin"], "Expected --FLAG=VALUE, got p/a.gin"),
    (["--gin.X=1,2", BINDING], "both set X"),
    (["--gin.X=1", BINDING], "both set X"),
    ([BINDING, "--gin.X=1,2"], "both set X"),
    ([BINDING, "--gin.X=1"], "both set X"),
  ],
)
def test_what_cannot_be_read_is_refused(arguments, message):
  with pytest.raises(ValueError, match=re.escape(message)):
    sweeps.parse(arguments)


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
    *("--gin.LENGTHS={'inputs': 8}", "--gin.OPTIMIZER=None"),
    *("--gin.PROMPT_LENGTH=5", '--gin.TASK="cb"'),
    '--gin.MODEL_DIR="runs/x/r-a-cb-prompt_length5"',
    "--tfds_data_dir=tfds",
  )
  assert len(sheet.cells()) == 4


@pytest.mark.parametrize(
  ("arguments", "expected"),
  [
    (
      ["--gin_file=mine/all.gin", "--gin.RANDOM_SEED=0,1"],
      ([], "mine", None, "dots"),
    ),
    (
      [
        "--gin_file=gin/models/{s,m}.gin",
        "--gin_file=gin/methods/{prompt_tuning,lora}.gin",
      ],
      (["method"], "model", None, "lines"),
    ),
    ([*FIXED, LENGTHS], (["recipe"], "prompt_length", None, "lines")),
    (
      [*FIXED, LENGTHS, "--gin_file=gin/prompts/{a,b}.gin"],
      (["prompt"], "prompt_length", None, "lines"),
    ),
    (
      [*FIXED, "--gin.a.B.rate=0.1,1,2", LENGTHS],
      (["prompt_length"], "rate", None, "lines"),
    ),
    (
      [*FIXED, "--gin.TASK='cb','rte'", LENGTHS, "--gin.RANDOM_SEED=0,1"],
      (["recipe"], "prompt_length", "task", "lines"),
    ),
    (
      [*FIXED, "--gin.TASK='cb','rte'", "--gin_file=gin/prompts/{a,b}.gin"],
      (["prompt"], "task", None, "dots"),
    ),
    ([*FIXED, "--gin.RANDOM_SEED=0,1"], ([], "recipe", None, "dots")),
    (
      [*FIXED, "--gin.TASK='cb'", "--gin.RANDOM_SEED=0,1"],
      (["recipe"], "task", None, "dots"),
    ),
  ],
)
def test_layout(arguments, expected):
  found = _sheet(*arguments).layout
  assert (found.rows, found.columns, found.mean_over, found.figure) == expected


@pytest.mark.parametrize(
  ("arguments", "index", "name", "words"),
  [
    # Files that belong together.
    (
      ["--gin_file=gin/x/a.gin,gin/x/a.gin+gin/x/b.gin"],
      *(-1, "a+b", {"--gin_file=gin/x/a.gin", "--gin_file=gin/x/b.gin"}),
    ),
    # Values without a name.
    (
      [*FIXED, "--gin.LABELS=['a', 'b'],['b'],None", LENGTHS],
      *(0, "r-a_b-d26d-prompt_length1", {"--gin.LABELS=['a', 'b']"}),
    ),
    (
      [*FIXED, "--gin.LABELS=['a', 'b'],['b'],None"],
      *(-1, "r-None", {"--gin.LABELS=None"}),
    ),
    # A seed is one of the data too.
    ([*FIXED, SEEDS], 1, "r-seed1", {"--gin.SHUFFLE_SEED=1"}),
    (
      [*FIXED, SEEDS, "--gin.SHUFFLE_SEED=5"],
      *(1, "r-seed1", {"--gin.SHUFFLE_SEED=5"}),
    ),
  ],
)
def test_cells(arguments, index, name, words):
  cell = _sheet(*arguments).cells()[index]
  assert cell.name == name
  assert words <= {*cell.command}


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


@pytest.mark.parametrize(
  ("arguments", "message"),
  [
    (["--gin.X=1"], "There is no list to sweep"),
    ([LENGTHS, "--gin.MODEL_DIR='runs/x'"], "--gin.MODEL_DIR is what a sweep"),
    ([LENGTHS, "--gin_search_paths=mine"], "Leave --gin_search_paths out"),
    (
      ["--gin_file=a/p.gin,b/p.gin"],
      "Gin files have the same name: a/p.gin, b/p.gin",
    ),
  ],
)
def test_what_cannot_be_swept_is_refused(arguments, message):
  with pytest.raises(ValueError, match=message):
    _sheet(*FIXED, *arguments)
  with pytest.raises(ValueError, match="no score"):
    sweeps.fields([*FIXED, LENGTHS], [], module="t5x.infer")


@pytest.mark.parametrize(
  ("first", "second", "is_same"),
  [
    ([LENGTHS], [f"{LENGTHS},20"], True),
    (["--gin.a.X=[1],[2]"], ["--gin.a.X=[1],[2],None"], True),
    ([LENGTHS], [LENGTHS, "--gin.BATCH_SIZE=4"], False),
    ([LENGTHS, "--gin.TASK='cb'"], [LENGTHS, "--gin.TASK='rte'"], False),
    (["--gin.a.X=[1],[2]"], ["--gin.b.X=[1],[2]"], False),
    (["--gin_file=g/a.gin,g/b.gin"], ["--gin_file=h/a.gin,h/b.gin"], False),
    (
      ["--gin_file=gin/recipes/r.gin", LENGTHS],
      ["--gin_file=gin/recipes/s.gin", LENGTHS],
      False,
    ),
  ],
)
def test_more_values_go_on_in_the_same_folder(first, second, is_same):
  names = [sweeps.fields([*FIXED[:1], *x], [])["name"] for x in (first, second)]
  assert (names[0] == names[1]) == is_same
  if LENGTHS in first:
    assert names[0].startswith("sweeps/prompt_length-")


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
  fields = sweeps.fields(arguments, arguments)
  del fields["name"]
  path = tmp_path / "x.toml"
  path.write_text(sheets.dumps(fields))
  read = sheets.parse(path, Sheet, name="x")
  # Values without a name are labelled as they were given.
  labels = [read.label("labels", x) for x in read.values["labels"]]
  assert labels == ["['a, b']", "None"]
  assert read == Sheet.model_validate({"name": "x", **fields})
  expected = [cell.command for cell in _sheet(*arguments).cells()]
  assert [cell.command for cell in read.cells()] == expected
  assert "--gin.PATH='runs/${HOME}'" in expected[0]
