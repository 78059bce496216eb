"""Tests of `python -m t5x.train` as a user meets it."""

import functools
import os
import pathlib
import re
import signal
import sys
import threading
import zipfile

import gin
import pytest
import started
import tiny_gin

import prompt_tuning
from t5x import gin_utils
from t5x.configuration import command_flags

ROOT = pathlib.Path(__file__).parents[2]
MODEL = [
  "--gin_file=gin/models/ladder_s.gin",
  "--gin_file=gin/methods/prompt_tuning.gin",
  "--gin_file=gin/prompts/random_uniform.gin",
]
TRAIN = [*MODEL, "--gin_file=gin/runs/train.gin"]


@pytest.mark.slow
def test_wrong_configuration_is_one_line_and_status_1(tmp_path):
  """An error inside a configurable is one line without a traceback."""
  arguments = ["--gin.TASK='super_glue_axb'", "--gin.TRAIN_STEPS_RELATIVE=1"]
  message = "Error: super_glue_axb has no split 'train'.*\n"
  folder = f"--gin.MODEL_DIR={str(tmp_path)!r}"
  done = started.python(
    *("-m", "t5x.train", *TRAIN, folder, *arguments),
    status=1,
    cwd=ROOT,
    env=started.plain_environment(),
    timeout=120,
  )
  assert done.stdout == ""
  assert re.fullmatch(message, done.stderr)
  assert not list(tmp_path.iterdir())


def test_command_trains_and_says_how_to_go_on(tmp_path):
  done = started.python(
    *("-m", "t5x.train", "--gin_file=gin/models/ladder_xxs.gin"),
    "--gin_file=gin/recipes/prompt_tuning.gin",
    *("--gin.TASK='ladder_cb'", "--gin.PROMPT_LENGTH=4"),
    *("--gin.TRAIN_STEPS_RELATIVE=1", "--gin.EVAL_PERIOD=1"),
    f"--gin.MODEL_DIR={str(tmp_path)!r}",
    cwd=ROOT,
  )
  path = tmp_path / "prompt.safetensors"
  assert path.exists()
  assert re.search(r"step 2501: ladder_cb: .*accuracy \d", done.stderr)
  lines = done.stdout.splitlines()
  assert lines[1:4] == [
    f"Prompt: {path}",
    "Evaluate it with:",
    "python -m t5x.eval \\",
  ]


@pytest.mark.parametrize(
  ("program", "folder"),
  [
    ("train", "MODEL_DIR"),
    ("eval", "EVAL_OUTPUT_DIR"),
    ("infer", "INFER_OUTPUT_DIR"),
  ],
)
def test_dry_run_prints_the_configuration(
  capsys, monkeypatch, tmp_path, program, folder
):
  def run(configured):
    raise AssertionError("it ran")

  monkeypatch.chdir(tmp_path)
  monkeypatch.setattr(gin, "configurable", lambda function: function)
  monkeypatch.setattr("t5x.files.compilation_cache.enable", lambda: None)
  words = [*MODEL, f"--gin_file=gin/runs/{program}.gin"]
  words += [f"--gin.{folder}='out'", "--gin.TASK='x'"]
  tiny_gin.start(monkeypatch, program, [*words, "--dry_run"], run)
  assert f"{folder} = 'out'" in capsys.readouterr().out
  assert not list(tmp_path.iterdir())
  gin.clear_config()
  with pytest.raises(AssertionError, match="it ran"):
    tiny_gin.start(monkeypatch, program, words, run)


def test_ctrl_c_is_one_line_before_a_run_too():
  code = "import t5x.configuration.command_flags as x; x.report_errors(); "
  done = started.python("-c", f"{code}raise KeyboardInterrupt", status=130)
  assert done.stderr.strip().startswith("Interrupted. The same command")
  assert done.stderr.count("\n") == 2


_LEFT_OVER_CALL = """
import asyncio, logging, threading
import tensorstore
from t5x.configuration import command_flags

command_flags.report_errors()
promise, future = tensorstore.Promise.new()

async def wait():
  await future

async def leave():
  task = asyncio.ensure_future(wait())
  await asyncio.sleep(0)
  return task

loop = asyncio.new_event_loop()
task = loop.run_until_complete(leave())
loop.close()
thread = threading.Thread(target=promise.set_result, args=[0])
thread.start()
thread.join()
for name in ("asyncio", "fsspec.prefetcher", "gcsfs"):
  logging.getLogger(name).error("Not retrieved")
raise SystemExit("Error: of the first")
"""


def test_call_that_ends_after_the_failure_of_others_is_not_shown():
  done = started.python("-c", _LEFT_OVER_CALL, status=1)
  assert done.stderr == "Error: of the first\n"


@pytest.mark.slow
def test_wheel_works_in_a_folder_of_its_own(tmp_path):
  """Converts, tunes, sweeps and launches with paths from that folder."""
  build = ("-m", "hatchling", "build", "-t", "wheel", "-d")
  started.python(*build, tmp_path / "dist", cwd=ROOT)
  site, folder = tmp_path / "site", tmp_path / "folder"
  (wheel,) = (tmp_path / "dist").glob("*.whl")
  with zipfile.ZipFile(wheel) as archive:
    archive.extractall(site)
  before = set(site.rglob("*"))
  (folder / "configs").mkdir(parents=True)

  python = functools.partial(
    started.python,
    "-c",
    cwd=folder,
    env={**os.environ, "PYTHONPATH": f"{site}:{ROOT}/runtime"},
  )
  path = python("import prompt_tuning as p; print(p.gin_search_path())").stdout
  assert path.startswith(str(site))
  assert (pathlib.Path(path.strip()) / "gin/models/t5_1_1.gin").is_file()

  def console(*arguments, status=0):
    program = "from prompt_tuning.commands import console; exit(console.main())"
    return python(program, *arguments, status=status)

  for command in ("convert", "inspect", "sweep", "launch"):
    assert f"\n    {command} " in console("--help").stdout
  assert "--checkpoint" in console("inspect", "--help").stdout
  source = str(ROOT / "checkpoints" / "ladder_xs" / "lm_100")
  words = ("convert", "checkpoint", "--from", "t5x", source, "--to", "t5x")
  console(*words, "mine")
  assert "0 differ" in console("inspect", "mine", source).stdout
  sweep = (
    "sweep",
    "--gin_file=gin/models/ladder_xs.gin",
    "--gin_file=gin/recipes/prompt_tuning.gin",
    "--gin.INITIAL_CHECKPOINT_PATH='mine'",
    "--gin.TASK='ladder_cb'",
    "--gin.TRAIN_STEPS_RELATIVE=1",
    "--gin.EVAL_PERIOD=1",
    "--gin.PROMPT_LENGTH=1,4",
    "--gin.BATCH_SIZE=8",
  )
  # A prompt of one position has no room for three labels.
  assert "failed" in console(*sweep, status=1).stdout
  assert len(list(folder.glob("runs/sweeps/*/*/prompt.safetensors"))) == 1
  console(*sweep, "--write_sheet=configs/mine.toml")
  launched = console("launch", "mine", "--dry-run")
  assert "1 of 2 cells to run." in launched.stderr
  new = set(site.rglob("*")) - before
  assert {path.suffix for path in new} <= {".pyc", ""}  # "" is __pycache__.


def test_failure_of_a_run_is_one_line_and_status_1(monkeypatch, capsys):
  errors = [
    RuntimeError("RESOURCE_EXHAUSTED: No.\nMore"),
    FloatingPointError("After step 3, the loss is nan."),
  ]

  def fail(*unused):
    raise errors.pop()

  monkeypatch.setattr(gin_utils, "_start", fail)
  monkeypatch.setattr(sys, "argv", ["train"])
  for said in ("After step 3, the loss is nan.", ".* No. Give a smaller .*"):
    with pytest.raises(SystemExit) as exit_:
      gin_utils.run_entry_point(fail, fail)
    assert exit_.value.code == 1
    assert re.fullmatch(f"Error: {said}\n", capsys.readouterr().err)
    # Flags can be defined only once.
    monkeypatch.setattr(gin_utils, "define_flags", bool)


def test_threads_that_wait_for_a_checkpoint_do_not_keep_a_failed_command(
  monkeypatch,
):
  class Waiting(threading.Thread):
    """A thread that seems to be Orbax's."""

  Waiting.__module__ = "orbax.checkpoint._src.futures.future"
  over, exits = threading.Event(), []
  monkeypatch.setattr(os, "_exit", exits.append)
  command_flags.leave(1)
  Waiting(target=over.wait).start()
  command_flags.leave(0)
  assert not exits
  command_flags.leave(1)
  over.set()
  assert exits == [1]


@pytest.mark.slow
def test_tensorflow_does_not_speak_of_caches():
  """Reading part of a cached dataset prints no warning."""
  program = (
    "import t5x.utils, tensorflow as tf\n"
    "part = tf.data.Dataset.range(9).cache().take(2).repeat(2)\n"
    "print(*part.as_numpy_iterator())\n"
  )
  environment = {k: x for k, x in os.environ.items() if "TF_" not in k}
  done = started.python("-c", program, env=environment)
  assert (done.stdout, done.stderr) == ("0 1 0 1\n", "")


def test_help_shows_values_and_files():
  path = prompt_tuning.gin_search_path()
  text = command_flags.help_text(
    "train",
    [
      f"--gin_file={os.path.join(path, 'gin/models/ladder_s.gin')}",
      "--gin_file",
      os.path.join(path, "gin/recipes/lora.gin"),
      "--gin.LORA_RANK=4",
      f"--gin_search_paths={path}",
      "--help",
    ],
  )
  assert "\n  LORA_RANK = 4\n" in text
  assert "\n  MODEL_DIR = required\n" in text
  for name in ("ladder_s", "model_tuning", "class_labels", "--tfds_data_dir"):
    assert f"\n  {name} " in text
  assert "repeat this" not in text  # Part of absl's help on repeated flags.


def test_help_imports_neither_jax_nor_tensorflow():
  program = (
    "import sys; from t5x.configuration import command_flags\n"
    "sys.argv = ['train']\n"
    "try: command_flags.show_help_if_asked('train')\n"
    "except SystemExit as e: assert not e.code\n"
    "print({'jax', 'tensorflow'} & set(sys.modules))"
  )
  done = started.python("-c", program)
  assert "A command names a model" in done.stdout
  assert done.stdout.endswith("set()\n")


def test_help_ends_quietly_if_nobody_reads_on():
  """A closed reader, as in `| head`, ends the help without a message."""
  reader, writer = os.pipe()
  os.close(reader)
  with os.fdopen(writer) as closed:
    words, killed = ("-m", "t5x.train", "--help"), -signal.SIGPIPE
    assert not started.python(*words, status=killed, stdout=closed).stderr
