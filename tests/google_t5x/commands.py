"""The commands that run on both runtimes: the README's, in eight steps.

`{out}` is the folder of a runtime, relative to the repository's root as a user
would write it. Dropout is off, as each runtime draws its own random bits, and
the rate is low, because rounding errors grow faster if a run learns faster.

The first command of a page also runs as documented, at its own rate and number
of steps. By its end, rounding errors are too large to compare the results, so
it only has to run on both.
"""

import dataclasses
import pathlib
import re
import sys

sys.path.append(str(pathlib.Path(__file__).parents[1]))
import documented

# Model -> a task of its vocabulary.
TASKS = {"ladder_s": "ladder_boolq", "t5_small_local": "mini_boolq"}
STEPS = 8
# Model -> the page whose first training command uses it.
_PAGES = {"ladder_s": "docs/google_t5x.md", "t5_small_local": "README.md"}
_TRAINING = (
  "--gin.LEARNING_RATE=0.003",
  "--gin.DROPOUT_RATE=0.0",
  f"--gin.TRAIN_STEPS_RELATIVE={STEPS}",
  "--gin.STATS_PERIOD=1",
)


@dataclasses.dataclass(frozen=True)
class Command:
  """A command line without the interpreter and the folder.

  Attributes:
    name: The name in the table and, with underscores, of the folder.
    program: "train", "eval" or "infer".
    flags: The flags, with `{out}` in place of the runtime's folder.
    is_compared: Whether its losses and predictions have to be the same.
  """

  name: str
  program: str
  flags: tuple[str, ...]
  is_compared: bool = True

  def arguments(self, out: str) -> list[str]:
    """Returns the words after the interpreter."""
    return [
      "-m",
      f"t5x.{self.program}",
      *(flag.replace("{out}", out) for flag in self.flags),
    ]

  def folder(self, out: str) -> str:
    """Returns the folder that the command writes."""
    return f"{out}/{self.name.replace(' ', '_')}"


_FOLDERS = {
  "train": "MODEL_DIR",
  "eval": "EVAL_OUTPUT_DIR",
  "infer": "INFER_OUTPUT_DIR",
}


def commands(model: str) -> list[Command]:
  """Returns the commands for a model, in the order in which they are run."""
  lengths = '--gin.TASK_FEATURE_LENGTHS={"inputs": 64, "targets": 8}'
  batches = [lengths, "--gin.BATCH_SIZE=16", f"--gin.EVAL_PERIOD={STEPS}"]
  prompt = "--gin.PROMPT_FILE='{out}/prompt/prompt.safetensors'"
  from_file = "methods/prompt_tuning prompts/from_file"
  # Name, program, gin files and flags.
  rows: list[tuple[str, str, str, list[str]]] = [
    (
      "prompt",
      "train",
      "methods/prompt_tuning prompts/class_labels runs/train",
      [
        '--gin.CLASS_LABELS=["False", "True"]',
        "--gin.PROMPT_LENGTH=20",
        *batches,
        *_TRAINING,
      ],
    ),
    ("prompt eval by file", "eval", f"{from_file} runs/eval", [prompt]),
    (
      "prompt infer by file",
      "infer",
      f"{from_file} runs/infer",
      [prompt, lengths],
    ),
    (
      "prompt eval by checkpoint",
      "eval",
      "methods/prompt_tuning prompts/random_uniform runs/eval",
      ["--gin.PROMPT_LENGTH=20", "--gin.CHECKPOINT_PATH='{out}/prompt'"],
    ),
  ]
  for method in ("model_tuning", "lora"):
    there = f"--gin.CHECKPOINT_PATH='{{out}}/{method}'"
    files = f"methods/{method} runs/"
    rows += [
      (method, "train", f"{files}train", [*batches, *_TRAINING]),
      (f"{method} eval by checkpoint", "eval", f"{files}eval", [there]),
    ]
  rows.append(("recipe", "train", "recipes/prompt_tuning", [*_TRAINING]))
  # The page's first training command, which here writes to another folder.
  words = next(
    words
    for words in documented.commands(documented.ROOT / _PAGES[model])
    if words[:3] == ["python", "-m", "t5x.train"]
  )
  assert f"--gin_file=gin/models/{model}.gin" in words, words
  folder = "--gin.MODEL_DIR='{out}/as_documented'"
  as_documented = [re.sub(r"^--gin\.MODEL_DIR=.*", folder, x) for x in words]
  assert folder in as_documented, words
  return [
    *(
      Command(
        name,
        program,
        (
          f"--gin_file=gin/models/{model}.gin",
          *(f"--gin_file=gin/{file}.gin" for file in files.split()),
          *flags,
          f"--gin.MIXTURE_OR_TASK_NAME='{TASKS[model]}'",
          f"--gin.{_FOLDERS[program]}='{{out}}/{name.replace(' ', '_')}'",
        ),
      )
      for name, program, files, flags in rows
    ),
    Command("as documented", "train", (*as_documented[3:],), is_compared=False),
  ]
