"""Trains, evaluates and infers with every prompt, in a process of its own.

  python on_processes.py FOLDER BASE... [-- ADDRESS COUNT INDEX]

Runs the gin files that users name, with a tiny model shared by all devices, in
FOLDER/<number of the base>/<prompt>. With an address it is one of several
processes.
"""

import pathlib
import sys

import gin
import jax
import tiny

import prompt_tuning
from t5x import gin_utils

# Where the gin files look for them.
from t5x.eval import evaluate
from t5x.infer import infer
from t5x.train import train

TESTS = pathlib.Path(__file__).parent
# Each with what it needs; the last takes the prompt of the first.
PROMPTS = {
  "class_labels": ["CLASS_LABELS = ['yes', 'no']"],
  "sampled_vocab": [],
  "from_file": [],
}


def _run(function, stem, prompt, bindings, **macros):
  macros = {
    "MIXTURE_OR_TASK_NAME": tiny.TASK,
    "MIXTURE_OR_TASK_MODULE": "tiny",
    "BATCH_SIZE": tiny.BATCH_SIZE,
    **macros,
  }
  gin.clear_config()
  gin_utils.parse_gin_flags(
    [prompt_tuning.gin_search_path()],
    [
      str(TESTS / "testdata" / "tiny.gin"),
      "gin/methods/prompt_tuning.gin",
      f"gin/prompts/{prompt}.gin",
      f"gin/runs/{stem}.gin",
    ],
    [
      *bindings,
      f"partitioning.PjitPartitioner.num_partitions = {jax.device_count()}",
      *(f"{name} = {value!r}" for name, value in macros.items()),
    ],
  )
  gin.get_configurable(function)()


def run(folder, base, prompt):
  """Trains, and evaluates the run and a prompt file on the base model."""
  bindings = list(PROMPTS[prompt])
  macros = {"INITIAL_CHECKPOINT_PATH": base}
  evaluated = {**macros, "CHECKPOINT_PATH": str(folder / "run")}
  if prompt == "from_file":
    file = folder.with_name("class_labels") / "run" / "prompt.safetensors"
    macros["PROMPT_FILE"] = evaluated["PROMPT_FILE"] = str(file)
    evaluated["CHECKPOINT_PATH"] = base
  else:
    macros["PROMPT_LENGTH"] = evaluated["PROMPT_LENGTH"] = tiny.PROMPT_LENGTH
  lengths = {"TASK_FEATURE_LENGTHS": tiny.LENGTHS}
  _run(
    train,
    "train",
    prompt,
    [*bindings, "train_script.train.train_eval_dataset_cfg = None"],
    MODEL_DIR=str(folder / "run"),
    TRAIN_STEPS_RELATIVE=2,
    EVAL_PERIOD=2,
    **lengths,
    **macros,
  )
  _run(
    evaluate,
    "eval",
    prompt,
    bindings,
    EVAL_OUTPUT_DIR=str(folder / "eval"),
    **evaluated,
  )
  _run(
    infer,
    "infer",
    prompt,
    bindings,
    INFER_OUTPUT_DIR=str(folder / "infer"),
    MODE="score",
    **lengths,
    **evaluated,
  )


def main(argv):
  folder, *bases = argv
  if "--" in bases:
    at = bases.index("--")
    address, count, index = bases[at + 1 :]
    bases = bases[:at]
    jax.config.update("jax_cpu_collectives_implementation", "gloo")
    jax.distributed.initialize(address, int(count), int(index))
  for number, base in enumerate(bases):
    for prompt in PROMPTS:
      run(pathlib.Path(folder) / str(number) / prompt, base, prompt)


if __name__ == "__main__":
  main(sys.argv[1:])
