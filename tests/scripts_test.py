"""The command lines in scripts/ and benchmarks/, as the pages show them."""

import re

import documented
import pytest

COMMANDS = [
  words
  for words in documented.commands(*documented.PAGES)
  if words[0] == "python" and words[1].endswith(".py")
]


def _sources(script):
  """Returns a script and the command lines of the package that it starts."""
  path = documented.ROOT / script
  yield path
  for package, name in re.findall(
    r"^from ([\w.]+commands) import (\w+)$", path.read_text(), re.M
  ):
    folder = documented.ROOT / package.replace(".", "/")
    yield folder / f"{name}.py"
    yield folder / "options.py"


@pytest.mark.parametrize("words", COMMANDS, ids=" ".join)
def test_documented_flags_are_defined(words):
  source = "".join(path.read_text() for path in _sources(words[1]))
  defined = set(re.findall(r'"--?(\w[\w-]*)"', source))
  defined |= set(re.findall(r'DEFINE_\w+\(\s*"(\w+)"', source))
  defined |= set(re.findall(r'short_name="(\w)"', source))
  used = {
    word.lstrip("-").partition("=")[0]
    for word in words[2:]
    # A sweep passes flags of gin on.
    if word.startswith("-") and not word.startswith("--gin") and word != "--"
  }
  assert used <= defined


def test_there_are_such_commands():
  assert len(COMMANDS) > 10
