"""The names of the tasks that `prompt_tuning.tasks` registers, for help texts.

Registering the tasks imports TensorFlow, which takes seconds. A test compares
the names.
"""

from collections.abc import Collection, Mapping, Sequence
import difflib
import pathlib
import tomllib

_FILE = pathlib.Path(__file__).with_suffix(".toml")
# The tasks whose mean is the SuperGLUE score.
SUPER_GLUE = ("boolq", "cb", "copa", "multirc", "record", "rte", "wic", "wsc")
# The tasks whose mean is the GLUE score; MNLI's two are one.
GLUE = (
  *("cola", "mnli_matched", "mnli_mismatched", "mrpc", "qnli", "qqp", "rte"),
  *("sst2", "stsb"),
)
# For a command without a task.
NONE_GIVEN = (
  "Expected a seqio task or mixture, got none. Give its name: "
  "--gin.TASK=\"'super_glue_cb'\""
)


def by_heading() -> Mapping[str, Sequence[str]]:
  """Returns heading -> names of tasks, without their variants."""
  return tomllib.loads(_FILE.read_text())


def all_names() -> set[str]:
  """Returns all names, including the variants."""
  return {
    name + variant
    for names in by_heading().values()
    for name in names
    for variant in ("", "_prefixed", "_sentinel")
  }


def unknown(name: str, known: Collection[str]) -> str:
  """Returns the error message for an unknown task name."""
  text = f"No seqio task or mixture is called {name!r}."
  if name.lower().endswith((".csv", ".tsv", ".jsonl", ".json", ".parquet")):
    return (
      f"{text} For a file: --gin_file=gin/tasks/files.gin "
      f"--gin.TRAIN_FILE=\"'{name}'\". In Python, pass its pairs (input, "
      "target)."
    )
  near = difflib.get_close_matches(name, sorted(known), n=5, cutoff=0.5)
  if near:
    text += f" Did you mean {' or '.join(near)}?"
  return f"{text} --help of t5x.train lists the tasks."
