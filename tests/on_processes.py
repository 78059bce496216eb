"""Trains, evaluates and infers with every prompt, in a process of its own.

  python on_processes.py FOLDER ORBAX T5X_V3 [-- ADDRESS COUNT INDEX]

Runs the gin files that users name, with a tiny model shared by all devices and
two base checkpoints, in FOLDER/<format>/<prompt>. With an address, it is one of
several processes.
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
# A format of the base and a prompt -> the programs that run with them. All
# programs read in one place, so that not each of them runs with everything. The
# file is the prompt of the first.
RUNS = {
  ("orbax", "class_labels"): ("train", "eval", "infer"),
  ("orbax", "sampled_vocab"): ("train",),
  ("orbax", "from_file"): ("train", "infer"),
  ("t5x_v3", "class_labels"): ("train",),
  ("t5x_v3", "sampled_vocab"): ("train", "infer"),
  ("t5x_v3", "from_file"): ("eval",),
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


def run(folder, base, prompt, programs):
  """Trains, and evaluates the run, or a prompt file on the base model."""
  bindings = []
  macros = {"INITIAL_CHECKPOINT_PATH": base}
  evaluated = {"CHECKPOINT_PATH": str(folder / "run")}
  if prompt == "from_file":
    first = folder.parents[1] / "orbax" / "class_labels"
    macros["PROMPT_FILE"] = str(first / "run" / "prompt.safetensors")
    evaluated = {}
  else:
    macros["PROMPT_LENGTH"] = tiny.PROMPT_LENGTH
  if prompt == "class_labels":
    bindings = ["CLASS_LABELS = ['yes', 'no']"]
  lengths = {"TASK_FEATURE_LENGTHS": tiny.LENGTHS}
  if "train" in programs:
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
  if "eval" in programs:
    _run(
      evaluate,
      "eval",
      prompt,
      bindings,
      EVAL_OUTPUT_DIR=str(folder / "eval"),
      **macros,
      **evaluated,
    )
  if "infer" in programs:
    _run(
      infer,
      "infer",
      prompt,
      bindings,
      INFER_OUTPUT_DIR=str(folder / "infer"),
      MODE="score",
      **lengths,
      **macros,
      **evaluated,
    )


def main(argv):
  folder, orbax, v3, *distributed = argv
  if distributed:
    _, address, count, index = distributed
    jax.config.update("jax_cpu_collectives_implementation", "gloo")
    jax.distributed.initialize(address, int(count), int(index))
  bases = {"orbax": orbax, "t5x_v3": v3}
  for (name, prompt), programs in RUNS.items():
    place = pathlib.Path(folder) / name / prompt
    run(place, bases[name], prompt, programs)


if __name__ == "__main__":
  main(sys.argv[1:])
