"""What is run on both runtimes: the README's commands, in eight steps.

`{out}` is the folder of a runtime, relative to the repository's root as a user
would write it. There is no dropout, whose random bits are each runtime's own,
and rates are low: rounding grows the faster, the faster a run learns.
"""

import dataclasses

# Model -> a task of its vocabulary.
TASKS = {"ladder_s": "ladder_boolq", "t5_small_local": "mini_boolq"}
STEPS = 8
# Of a prompt, whose own is 0.3; other methods keep theirs of 0.001.
_RATE = "--gin.LEARNING_RATE=0.003"
_TRAINING = (
  "--gin.DROPOUT_RATE=0.0",
  f"--gin.TRAIN_STEPS_RELATIVE={STEPS}",
  "--gin.STATS_PERIOD=1",
)


@dataclasses.dataclass(frozen=True)
class Command:
  """A command line, but for the interpreter and the folder.

  Attributes:
    name: What is shown, and the folder's name.
    program: "train", "eval" or "infer".
    flags: With `{out}` in the place of the runtime's folder.
  """

  name: str
  program: str
  flags: tuple[str, ...]

  def arguments(self, out: str) -> list[str]:
    """Returns what follows the interpreter."""
    return [
      "-m",
      f"t5x.{self.program}",
      *(flag.replace("{out}", out) for flag in self.flags),
    ]

  def folder(self, out: str) -> str:
    """Returns where it writes."""
    return f"{out}/{self.name.replace(' ', '_')}"


def _command(name: str, program: str, model: str, *flags: str) -> Command:
  out = {
    "train": "MODEL_DIR",
    "eval": "EVAL_OUTPUT_DIR",
    "infer": "INFER_OUTPUT_DIR",
  }[program]
  return Command(
    name,
    program,
    (
      f"--gin_file=gin/models/{model}.gin",
      *flags,
      f"--gin.MIXTURE_OR_TASK_NAME='{TASKS[model]}'",
      f"--gin.{out}='{{out}}/{name.replace(' ', '_')}'",
    ),
  )


def _files(*names: str) -> tuple[str, ...]:
  return tuple(f"--gin_file=gin/{name}.gin" for name in names)


def commands(model: str) -> list[Command]:
  """Returns the commands for a model, in the order in which they are run."""
  batches = (
    '--gin.TASK_FEATURE_LENGTHS={"inputs": 64, "targets": 8}',
    "--gin.BATCH_SIZE=16",
    f"--gin.EVAL_PERIOD={STEPS}",
  )
  prompt = "--gin.PROMPT_FILE='{out}/prompt/prompt.safetensors'"
  from_file = _files("methods/prompt_tuning", "prompts/from_file")
  found = [
    _command(
      "prompt",
      "train",
      model,
      *_files("methods/prompt_tuning", "prompts/class_labels", "runs/train"),
      '--gin.CLASS_LABELS=["False", "True"]',
      "--gin.PROMPT_LENGTH=20",
      _RATE,
      *batches,
      *_TRAINING,
    ),
    _command(
      "prompt eval by file",
      "eval",
      model,
      *from_file,
      *_files("runs/eval"),
      prompt,
    ),
    _command(
      "prompt infer by file",
      "infer",
      model,
      *from_file,
      *_files("runs/infer"),
      prompt,
      batches[0],
    ),
    _command(
      "prompt eval by checkpoint",
      "eval",
      model,
      *_files("methods/prompt_tuning", "prompts/random_uniform", "runs/eval"),
      "--gin.PROMPT_LENGTH=20",
      "--gin.CHECKPOINT_PATH='{out}/prompt'",
    ),
  ]
  for method in ("model_tuning", "lora"):
    found += [
      _command(
        method,
        "train",
        model,
        *_files(f"methods/{method}", "runs/train"),
        *batches,
        *_TRAINING,
      ),
      _command(
        f"{method} eval by checkpoint",
        "eval",
        model,
        *_files(f"methods/{method}", "runs/eval"),
        f"--gin.CHECKPOINT_PATH='{{out}}/{method}'",
      ),
    ]
  found.append(
    _command(
      "recipe",
      "train",
      model,
      *_files("recipes/prompt_tuning"),
      _RATE,
      *_TRAINING,
    )
  )
  return found
