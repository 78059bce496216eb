"""`python -m t5x.train` as a user meets it, in processes of their own."""

import os
import pathlib
import subprocess
import sys
import zipfile

import pytest

pytestmark = pytest.mark.slow

ROOT = pathlib.Path(__file__).parents[2]
MODEL = [
  "--gin_file=gin/models/ladder_s.gin",
  "--gin_file=gin/methods/prompt_tuning.gin",
  "--gin_file=gin/prompts/random_uniform.gin",
  "--gin_file=gin/runs/train.gin",
]


def _run(module, arguments, folder):
  return subprocess.run(
    [sys.executable, "-m", f"t5x.{module}", *arguments],
    cwd=folder,
    # Not what JAX said to the process of the tests: how much XLA logs.
    env={
      name: value
      for name, value in os.environ.items()
      if not name.startswith(("JAX_", "TF_CPP_"))
    },
    capture_output=True,
    text=True,
    timeout=120,
  )


def test_wrong_configuration_is_one_line_and_status_1(tmp_path):
  result = _run("train", [*MODEL, f"--gin.MODEL_DIR={str(tmp_path)!r}"], ROOT)
  assert result.returncode == 1
  assert result.stdout == ""
  assert result.stderr == (
    "Error: Expected a seqio task or mixture, got none. Give its name: "
    "--gin.TASK=\"'super_glue_cb'\"\n"
  )
  assert not list(tmp_path.iterdir())


def test_error_inside_a_configurable_is_one_line_too(tmp_path):
  result = _run(
    "train",
    [
      *MODEL,
      f"--gin.MODEL_DIR={str(tmp_path)!r}",
      "--gin.MIXTURE_OR_TASK_NAME='mini_boolk'",
      "--gin.TASK_FEATURE_LENGTHS={'inputs': 8, 'targets': 4}",
      "--gin.TRAIN_STEPS_RELATIVE=1",
    ],
    ROOT,
  )
  assert result.returncode == 1
  assert result.stderr.startswith("Error: No seqio task or mixture")
  assert "mini_boolq" in result.stderr
  assert len(result.stderr.splitlines()) == 1


@pytest.mark.parametrize("module", ["train", "eval", "infer"])
def test_dry_run_prints_the_configuration(tmp_path, module):
  folder = {
    "train": "MODEL_DIR",
    "eval": "EVAL_OUTPUT_DIR",
    "infer": "INFER_OUTPUT_DIR",
  }[module]
  result = _run(
    module,
    [
      *MODEL[:3],
      f"--gin_file=gin/runs/{module}.gin",
      f"--gin.{folder}='out'",
      "--gin.MIXTURE_OR_TASK_NAME='x'",
      "--dry_run",
    ],
    tmp_path,
  )
  assert result.returncode == 0, result.stderr
  assert f"{folder} = 'out'" in result.stdout
  assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("scope", ["trian", "train_evl"])
def test_mistyped_scope_is_refused(tmp_path, scope):
  binding = f"{scope}/utils.DatasetConfig.batch_size"
  arguments = [*MODEL, "--gin.MODEL_DIR='out'", f"--gin.{binding}=4"]
  result = _run("train", [*arguments, "--dry_run"], tmp_path)
  assert result.returncode == 1
  assert f"{binding!r} would change nothing. Did you mean" in result.stderr


@pytest.fixture(scope="module")
def site(tmp_path_factory):
  """A folder with what the wheel installs."""
  folder = tmp_path_factory.mktemp("wheel")
  subprocess.run(
    [sys.executable, "-m", "hatchling", "build", "-t", "wheel", "-d", folder],
    cwd=ROOT,
    check=True,
    capture_output=True,
  )
  (wheel,) = folder.glob("*.whl")
  with zipfile.ZipFile(wheel) as archive:
    archive.extractall(folder / "site")
  return folder / "site"


def _installed(site, folder, program, *arguments, status=0):
  """Runs a line of Python in a folder, with the wheel; returns its result."""
  done = subprocess.run(
    [sys.executable, "-c", program, *arguments],
    cwd=folder,
    env={**os.environ, "PYTHONPATH": f"{site}:{ROOT}/runtime"},
    capture_output=True,
    text=True,
  )
  assert done.returncode == status, done.stderr
  return done


def _console(site, folder, *arguments, status=0):
  program = "from prompt_tuning.commands import console; exit(console.main())"
  return _installed(site, folder, program, *arguments, status=status)


def test_wheel_brings_gin_files_and_commands(site, tmp_path):
  program = "import prompt_tuning as pt; print(pt.gin_search_path())"
  path = _installed(site, tmp_path, program).stdout.strip()
  assert path.startswith(str(site))
  assert (pathlib.Path(path) / "gin" / "models" / "t5_1_1.gin").is_file()
  listed = _console(site, tmp_path, "--help").stdout
  for command in ("convert", "inspect", "sweep", "launch"):
    assert f"\n    {command} " in listed
  mistaken = _console(site, tmp_path, "lunch", status=2)
  assert "did you mean launch" in mistaken.stderr
  inspect = _console(site, tmp_path, "inspect", "--help")
  assert "--checkpoint" in inspect.stdout


def test_wheel_works_in_a_folder_of_its_own(site, tmp_path):
  """Converted, tuned, swept and launched, by paths from that folder."""
  before = sorted(site.rglob("*"))
  source = ROOT / "checkpoints" / "ladder_xs" / "lm_100"
  convert = ("--from", "t5x", str(source), "--to", "t5x", "mine")
  _console(site, tmp_path, "convert", "checkpoint", *convert)
  compare = ("mine", str(source))
  same = _console(site, tmp_path, "inspect", *compare)
  assert "0 differ" in same.stdout
  (tmp_path / "configs").mkdir()
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
  swept = _console(site, tmp_path, *sweep, status=1)
  assert "failed" in swept.stdout
  assert len(list(tmp_path.glob("runs/sweeps/*/*/prompt.safetensors"))) == 1
  _console(site, tmp_path, *sweep, "--write_sheet=configs/mine.toml")
  launched = _console(site, tmp_path, "launch", "mine", "--dry-run")
  assert "1 of 2 cells to run." in launched.stderr
  new = set(site.rglob("*")) - set(before)
  assert {path.suffix for path in new} <= {".pyc", ""}  # And __pycache__.


def test_loss_that_is_no_number_is_one_line_and_status_1():
  program = (
    "from t5x import gin_utils\n"
    "def fail(*_): raise FloatingPointError('After step 3, the loss is nan.')\n"
    "gin_utils._start = fail\n"
    "gin_utils.run_entry_point(fail, fail)\n"
  )
  done = subprocess.run(
    [sys.executable, "-c", program], capture_output=True, text=True
  )
  assert done.returncode == 1
  assert done.stderr == "Error: After step 3, the loss is nan.\n"


def test_tensorflow_does_not_speak_of_caches():
  """It warns when an evaluation reads a part of a split, as it should."""
  program = (
    "import t5x.utils, tensorflow as tf\n"
    "part = tf.data.Dataset.range(9).cache().take(2).repeat(2)\n"
    "print(*part.as_numpy_iterator())\n"
  )
  environment = {k: x for k, x in os.environ.items() if "TF_" not in k}
  done = subprocess.run(
    [sys.executable, "-c", program],
    capture_output=True,
    text=True,
    check=True,
    env=environment,
  )
  assert (done.stdout, done.stderr) == ("0 1 0 1\n", "")
