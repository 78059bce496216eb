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
  "--gin_file=gin/models/t5_small_local.gin",
  "--gin_file=gin/methods/prompt_tuning.gin",
  "--gin_file=gin/prompts/random_uniform.gin",
  "--gin_file=gin/runs/train.gin",
]


def _run(module, arguments, folder):
  return subprocess.run(
    [sys.executable, "-m", f"t5x.{module}", *arguments],
    cwd=folder,
    env={k: v for k, v in os.environ.items() if not k.startswith("JAX_")},
    capture_output=True,
    text=True,
    timeout=120,
  )


def test_wrong_configuration_is_one_line_and_status_1(tmp_path):
  result = _run("train", [*MODEL, "--gin.MODEL_DIR='run'"], tmp_path)
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
      "--gin_file=gin/models/ladder_s.gin",
      *MODEL[1:],
      "--gin.MODEL_DIR='run'",
      "--gin.MIXTURE_OR_TASK_NAME='mini_boolk'",
      "--gin.TASK_FEATURE_LENGTHS={'inputs': 8, 'targets': 4}",
      "--gin.TRAIN_STEPS_RELATIVE=1",
    ],
    tmp_path,
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


def test_wheel_brings_the_gin_files(tmp_path):
  subprocess.run(
    [sys.executable, "-m", "hatchling", "build", "-t", "wheel", "-d", tmp_path],
    cwd=ROOT,
    check=True,
    capture_output=True,
  )
  (wheel,) = tmp_path.glob("*.whl")
  with zipfile.ZipFile(wheel) as archive:
    archive.extractall(tmp_path / "site")
  path = subprocess.run(
    [
      sys.executable,
      "-c",
      "import prompt_tuning; print(prompt_tuning.gin_search_path())",
    ],
    cwd=tmp_path,
    env={**os.environ, "PYTHONPATH": str(tmp_path / "site")},
    check=True,
    capture_output=True,
    text=True,
  ).stdout.strip()
  assert path.startswith(str(tmp_path / "site"))
  assert (pathlib.Path(path) / "gin" / "models" / "t5_1_1.gin").is_file()

  def console(*arguments):
    program = "from prompt_tuning import console; console.main()"
    return subprocess.run(
      [sys.executable, "-c", program, *arguments],
      cwd=tmp_path,
      env={**os.environ, "PYTHONPATH": f"{tmp_path / 'site'}:{ROOT}/runtime"},
      capture_output=True,
      text=True,
    )

  listed = console()
  assert listed.returncode == 0
  for command in ("convert-checkpoint", "inspect-prompt", "sweep", "launch"):
    assert f"\n  {command} " in listed.stdout
  mistaken = console("lunch")
  assert mistaken.returncode == 2
  assert "Did you mean launch" in mistaken.stderr
  inspect = console("inspect-prompt", "--help")
  assert inspect.returncode == 0, inspect.stderr
  assert "--checkpoint" in inspect.stdout


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
