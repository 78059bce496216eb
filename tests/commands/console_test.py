"""The command line: its help, its errors, and the commands in the pages."""

import itertools
import subprocess
import sys

import documented
import pytest

from prompt_tuning.commands import console

HEAVY = ("jax", "tensorflow", "gin", "numpy", "t5x", "seqio")
COMMANDS = [
  words[1:]
  for words in documented.commands(*documented.PAGES)
  if words[0] == "prompt-tuning"
]


def _run(*words):
  return subprocess.run(
    [sys.executable, *words], capture_output=True, text=True
  )


def test_help_is_quick():
  """It imports nothing that takes long; no test of the time would be exact."""
  code = (
    "import sys; from prompt_tuning.commands import console\n"
    "try: console.parse(['--help'])\n"
    f"finally: assert not set(sys.modules) & {set(HEAVY)}\n"
  )
  done = _run("-c", code)
  assert (done.returncode, done.stderr) == (0, "")
  assert "plan-table" in done.stdout


def test_it_runs_as_a_module():
  done = _run("-m", "prompt_tuning", "--version")
  assert done.stdout.startswith("prompt-tuning 0."), done.stderr


@pytest.mark.parametrize("command", console.COMMANDS)
def test_each_command_has_help_and_is_documented(command, capsys):
  with pytest.raises(SystemExit, match="0"):
    console.parse([*command.split(), "--help"])
  assert f"usage: prompt-tuning {command} " in capsys.readouterr().out
  page = (documented.ROOT / "docs" / "commands.md").read_text()
  assert f"prompt-tuning {command}" in page


@pytest.mark.parametrize(
  ("words", "message"),
  [
    ([], "usage: prompt-tuning"),
    (["tabulat"], "no command 'tabulat'; did you mean tabulate?"),
    (["xyz"], "no command 'xyz'; see --help"),
    (["convert"], "did you mean convert checkpoint or convert prompt?"),
    (
      ["convert", "model"],
      "did you mean convert checkpoint or convert prompt?",
    ),
    (["tabulate", "--chek"], "unknown arguments: --chek"),
    (["tabulate", "--chec"], "unknown arguments: --chec"),  # Nothing shorter.
  ],
)
def test_wrong_command_lines(words, message, capsys):
  with pytest.raises(SystemExit, match="2"):
    console.parse(words)
  assert message in "".join(capsys.readouterr())


@pytest.mark.parametrize("flag", ["--dry-run", "--dry_run"])
def test_flags_have_dashes_or_underscores(flag):
  words = ["sweep", flag, "--gin.A-B=c-d", "--tfds_data_dir=x-y"]
  args = console.parse(words)
  assert args.dry_run
  assert args.rest == words[2:]


@pytest.mark.parametrize("words", COMMANDS, ids=" ".join)
def test_commands_in_the_pages_are_right(words):
  console.parse(list(itertools.takewhile(lambda word: word != "|", words)))
