"""What is run on both runtimes: the README's commands, in eight steps.

`{out}` is the folder of a runtime, relative to the repository's root as a user
would write it. There is no dropout, whose random bits are each runtime's own,
and the rate is low: rounding grows the faster, the faster a run learns.

A page's first command is run as it stands there as well, at its own rate and
number of steps. By its end rounding has grown past comparing: what is asked of
it is that it runs on both.
"""

from collections.abc import Iterator
import dataclasses
import pathlib
import re
import sys

sys.path.append(str(pathlib.Path(__file__).parents[1]))
import documented

# Model -> a task of its vocabulary.
TASKS = {"ladder_s": "ladder_boolq", "t5_small_local": "mini_boolq"}
# Model -> the page whose first training command is of it.
_PAGES = {"ladder_s": "docs/google_t5x.md", "t5_small_local": "README.md"}
_LENGTHS = '--gin.TASK_FEATURE_LENGTHS={"inputs": 64, "targets": 8}'
_TRAINING = (
  "--gin.LEARNING_RATE=0.003",
  "--gin.DROPOUT_RATE=0.0",
  "--gin.TRAIN_STEPS_RELATIVE=8",
  "--gin.STATS_PERIOD=1",
)
_WHOLE_TRAINING = (
  *_TRAINING,
  _LENGTHS,
  "--gin.BATCH_SIZE=16",
  "--gin.EVAL_PERIOD=8",
)


@dataclasses.dataclass(frozen=True)
class Command:
  """A command line, but for the interpreter.

  Attributes:
    name: What is shown. The command writes to `{out}/name_with_underscores`.
    program: "train", "eval" or "infer".
    flags: Its flags.
    is_compared: Whether its losses and predictions have to be the same.
  """

  name: str
  program: str
  flags: tuple[str, ...]
  is_compared: bool = True

  def arguments(self, out: str) -> list[str]:
    """Returns what follows the interpreter."""
    flags = [flag.replace("{out}", out) for flag in self.flags]
    return ["-m", f"t5x.{self.program}", *flags]


def commands(model: str) -> Iterator[Command]:
  """Yields the commands for a model, in the order in which they are run."""

  def command(name: str, program: str, files: str, *flags: str) -> Command:
    is_training = program == "train"
    folder = "MODEL_DIR" if is_training else f"{program.upper()}_OUTPUT_DIR"
    gin_files = [f"models/{model}", *files.split()]
    if "recipes" not in files:
      gin_files.append(f"runs/{program}")
    return Command(
      name,
      program,
      (
        *(f"--gin_file=gin/{file}.gin" for file in gin_files),
        *flags,
        f"--gin.MIXTURE_OR_TASK_NAME='{TASKS[model]}'",
        f"--gin.{folder}='{{out}}/{name.replace(' ', '_')}'",
      ),
    )

  length = "--gin.PROMPT_LENGTH=20"
  labels = '--gin.CLASS_LABELS=["False", "True"]'
  drawn, copied, read = (
    f"methods/prompt_tuning prompts/{x}"
    for x in ("random_uniform", "class_labels", "from_file")
  )
  file = "--gin.PROMPT_FILE='{out}/prompt/prompt.safetensors'"
  yield command("prompt", "train", copied, labels, length, *_WHOLE_TRAINING)
  yield command("prompt eval by file", "eval", read, file)
  yield command("prompt infer by file", "infer", read, file, _LENGTHS)
  for name, files, flags in (
    ("prompt", drawn, [length]),
    ("model_tuning", "methods/model_tuning", []),
    ("lora", "methods/lora", []),
  ):
    if name != "prompt":
      yield command(name, "train", files, *_WHOLE_TRAINING)
    there = f"--gin.CHECKPOINT_PATH='{{out}}/{name}'"
    yield command(f"{name} eval by checkpoint", "eval", files, *flags, there)
  yield command("recipe", "train", "recipes/prompt_tuning", *_TRAINING)
  # The page's first of training, writing to another folder.
  words = next(
    words
    for words in documented.commands(documented.ROOT / _PAGES[model])
    if words[:3] == ["python", "-m", "t5x.train"]
  )
  assert f"--gin_file=gin/models/{model}.gin" in words, words
  folder = "--gin.MODEL_DIR='{out}/as_documented'"
  flags = [re.sub(r"^--gin\.MODEL_DIR=.*", folder, x) for x in words[3:]]
  assert folder in flags, words
  yield Command("as documented", "train", (*flags,), is_compared=False)
