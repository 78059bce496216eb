"""Tests that each mistake gets a helpful message and leaves no files."""

import re
import sys

import gin
from mistakes import catalogue
import numpy as np
import pytest
import started
import tiny_gin

import prompt_tuning as pt
from prompt_tuning.commands import console
from t5x.planning import targets
from t5x.runs import command_line, preflight

MISTAKES = catalogue.MISTAKES
# These also run in processes; the first of them import little.
PROCESSES = [
  *MISTAKES[:100:14],
  *(pytest.param(x, marks=pytest.mark.slow) for x in MISTAKES[101::29]),
]


def _id(mistake):
  return f"{mistake.program} {mistake.words}"[-60:]


@pytest.fixture
def check(tmp_path, monkeypatch):
  """A function that makes a mistake and checks its message and files."""
  monkeypatch.chdir(tmp_path)

  def check(mistake, make):
    catalogue.prepare(tmp_path, mistake)
    before = set(tmp_path.rglob("*"))
    said = make(mistake)
    assert re.search(mistake.says, said, re.DOTALL), said
    assert "Traceback" not in said
    assert set(tmp_path.rglob("*")) == before

  return check


@pytest.fixture(scope="module")
def model():
  return pt.load(str(catalogue.ROOT / catalogue.LADDER))


def _t5x(mistake, monkeypatch):
  """Makes a mistake in one of the trainer's programs, in this process."""
  words = catalogue.words(mistake)
  monkeypatch.setattr(sys, "argv", [mistake.program, *words])
  try:
    preflight.before_imports(mistake.program)
  except SystemExit as exit_:
    return exit_.code
  # The command's words do not show the mistake, so the run has to.
  monkeypatch.setattr(
    gin,
    "configurable",
    lambda x: lambda **given: gin.get_configurable(x)(**given),
  )

  def run(bound):
    command_line.run(bound, mistake.program, "step", print)

  with pytest.raises((ValueError, OSError, ImportError)) as error:
    tiny_gin.start(monkeypatch, mistake.program, words, run)
  return str(error.value)


def _console(mistake, capsys):
  try:
    status = console.main(catalogue.words(mistake))
  except SystemExit as error:
    status = error.code
  assert status
  return capsys.readouterr().err + str(status)


def _python(mistake, model):
  with pytest.raises(ValueError, match=f"(?s){mistake.says}") as error:
    exec(mistake.words, {"pt": pt, "model": model, "np": np})
  return str(error.value)


@pytest.mark.parametrize("mistake", MISTAKES, ids=_id)
def test_mistake_gets_a_helpful_message(
  check, model, mistake, monkeypatch, capsys
):
  monkeypatch.setattr(targets, "prepare", lambda: None)  # JAX has started.
  monkeypatch.setattr("t5x.files.compilation_cache.enable", lambda: None)

  def make(mistake):
    if mistake.program == "console":
      return _console(mistake, capsys)
    if mistake.program == "python":
      return _python(mistake, model)
    return _t5x(mistake, monkeypatch)

  check(mistake, make)


@pytest.mark.parametrize("mistake", PROCESSES, ids=_id)
def test_mistake_ends_a_process(check, mistake):
  def make(mistake):
    done = started.python(*catalogue.command(mistake), status=None)
    assert done.returncode in (1, 2)
    return done.stderr

  check(mistake, make)


def test_catalogue_is_large():
  assert len(MISTAKES) > 200
