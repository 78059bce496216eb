"""The names of the tasks that `prompt_tuning.tasks` registers, for help texts.

Registering the tasks imports TensorFlow, which takes seconds. A test compares
the names.
"""

from collections.abc import Mapping, Sequence

# The tasks whose mean is the SuperGLUE score.
SUPER_GLUE = ("boolq", "cb", "copa", "multirc", "record", "rte", "wic", "wsc")
_MORE = ("axb", "axg", "wsc_classification")


def _of(prefix: str, names: Sequence[str]) -> tuple[str, ...]:
  return tuple(f"{prefix}_{name}" for name in names)


def by_heading() -> Mapping[str, Sequence[str]]:
  """Returns heading -> names of tasks, without their variants."""
  return {
    "Tasks, each as NAME_prefixed and NAME_sentinel too": (
      *_of("super_glue", (*SUPER_GLUE, *_MORE)),
      "dpr",
      *_of("mini", SUPER_GLUE),
      *_of("ladder", SUPER_GLUE),
    ),
    "Mixtures of them, each as NAME_prefixed too": (
      *("super_glue", "super_glue_smallest", "super_glue_and_dpr"),
      *("mini_super_glue", "ladder"),
    ),
    "To pretrain with": (
      *("ladder_lm", "ladder_lm_long", "ladder_span_corruption"),
      *("ladder_probes", "ladder_probes_spans"),
    ),
  }
