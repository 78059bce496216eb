"""Tests of the command line: help, errors, and the documented commands."""

import itertools

import documented
import pytest
import started

from prompt_tuning.commands import console

HEAVY = ("jax", "tensorflow", "gin", "numpy", "t5x", "seqio")
COMMANDS = [
  words[1:]
  for words in documented.commands(*documented.PAGES)
  if words[0] == "prompt-tuning"
]


def test_module_has_help_that_is_quick():
  """Help imports no slow package; a test of its time would be unreliable."""
  words = ("-X", "importtime", "-m", "prompt_tuning", "--help")
  done = started.python(*words)
  imported = {x.rpartition("|")[2].strip() for x in done.stderr.splitlines()}
  assert "argparse" in imported
  assert not imported & set(HEAVY)
  assert "plan-table" in done.stdout


def test_version(capsys):
  with pytest.raises(SystemExit, match="0"):
    console.parse(["--version"])
  assert capsys.readouterr().out.startswith("prompt-tuning 0.")


@pytest.mark.parametrize("command", console.COMMANDS)
def test_each_command_has_help_and_is_documented(command, capsys):
  with pytest.raises(SystemExit, match="0"):
    console.parse([*command.split(), "--help"])
  assert f"usage: prompt-tuning {command} " in capsys.readouterr().out
  page = (documented.ROOT / "docs" / "commands.md").read_text()
  assert f"prompt-tuning {command}" in page


_FAILURE = """
import sys, threading
from prompt_tuning.commands import console, show

class Thread(threading.Thread):
  __module__ = "orbax"

def run(args):
  Thread(target=threading.Event().wait).start()
  raise {}

show.run, sys.argv = run, ["prompt-tuning", "show", "rte"]
sys.exit(console.main())
"""


@pytest.mark.parametrize(
  ("error", "status", "line"),
  [
    ("FloatingPointError('NaN')", 1, "Error: NaN"),
    ("KeyboardInterrupt", 130, "Interrupted. The same command"),
  ],
)
def test_failure_is_one_line_and_ends_a_run_at_once(error, status, line):
  """A failure ends the process even while a thread of Orbax still waits."""
  code = _FAILURE.format(error)
  done = started.python("-c", code, status=status, timeout=60)
  (found,) = done.stderr.strip().splitlines()
  assert found.startswith(line)


def test_without_words_the_commands_are_shown(capsys):
  with pytest.raises(SystemExit, match="2"):
    console.parse([])
  assert "usage: prompt-tuning" in capsys.readouterr().out


@pytest.mark.parametrize("flag", ["--dry-run", "--dry_run"])
def test_flags_have_dashes_or_underscores(flag):
  words = ["sweep", flag, "--gin.A-B=c-d", "--tfds_data_dir=x-y"]
  args = console.parse(words)
  assert args.dry_run
  assert args.rest == words[2:]


@pytest.mark.parametrize("words", COMMANDS, ids=" ".join)
def test_commands_in_the_pages_parse(words):
  console.parse(list(itertools.takewhile(lambda word: word != "|", words)))


def test_pages_have_commands_of_most_kinds():
  documented_kinds = {words[0] for words in COMMANDS}
  assert len(documented_kinds) > 10
