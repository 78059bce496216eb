"""Train commands with lists: what is one value, and what are several."""

import re

import pytest

from prompt_tuning.experiments import sweep_commands


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
  command = sweep_commands.parse([f"--gin.X={text}"])
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
  found = sweep_commands.parse(arguments).gin_files
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
  command = sweep_commands.parse(arguments)
  assert (command.bindings, command.flags) == (bindings, flags)


@pytest.mark.parametrize("listed", ["--gin.X=1,2", "--gin.X=1"])
def test_list_of_what_gin_bindings_sets_is_refused(listed):
  arguments = [listed, "--gin_bindings=X = 3"]
  for given in (arguments, arguments[::-1]):
    with pytest.raises(ValueError, match="both set X"):
      sweep_commands.parse(given)


@pytest.mark.parametrize(
  ("argument", "message"),
  [
    ("--gin.X='a", "X = 'a is not valid gin syntax"),
    ("--gin.X=[1,2", "X = [1,2 is not valid gin syntax"),
    ("--gin.X=1,,2", "X = ,2 is not valid gin"),
    ("--gin.X=", "X = is not valid gin syntax"),
    ("--gin.X=1,2,1", "A value is there twice in 1, 2, 1"),
    ("--gin_file=p/{a,b}", "expected paths that end with .gin, got p/a,p/b"),
    ("p/a.gin", "Expected --FLAG=VALUE, got p/a.gin"),
  ],
)
def test_what_cannot_be_read_is_refused(argument, message):
  with pytest.raises(ValueError, match=re.escape(message)):
    sweep_commands.parse([argument])
