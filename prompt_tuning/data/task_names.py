"""The names of the tasks that `prompt_tuning.tasks` registers, for help texts.

Registering the tasks imports TensorFlow, which takes seconds. A test compares
the names.
"""

from collections.abc import Iterator, Mapping, Sequence
import itertools

# The tasks whose mean is the SuperGLUE score.
SUPER_GLUE = ("boolq", "cb", "copa", "multirc", "record", "rte", "wic", "wsc")
_MORE = ("axb", "axg", "wsc_classification")
_PROBES = ("answer", "choice", "entailment", "pronoun", "sense", "truth")


def _of(prefix: str, names: Sequence[str]) -> tuple[str, ...]:
  return tuple(f"{prefix}_{name}" for name in names)


_TASKS = (
  *_of("super_glue", (*SUPER_GLUE, *_MORE)),
  "dpr",
  *_of("mini", SUPER_GLUE),
  *_of("ladder", SUPER_GLUE),
)
_MIXTURES = (
  *("super_glue", "super_glue_smallest", "super_glue_and_dpr"),
  *("mini_super_glue", "ladder"),
)
_PRETRAINING = ("ladder_lm", "ladder_lm_long", "ladder_span_corruption")


def by_heading() -> Mapping[str, Sequence[str]]:
  """Returns heading -> names of tasks, without their variants."""
  return {
    "Tasks, each as NAME_prefixed and NAME_sentinel too": _TASKS,
    "Mixtures of them, each as NAME_prefixed too": _MIXTURES,
    "To pretrain with": (
      *_PRETRAINING,
      *("ladder_probes", "ladder_probes_spans"),
    ),
  }


def every() -> Iterator[str]:
  """Yields all names, of variants and of single probes too."""
  suffixes = ("", "_prefixed", "_sentinel")
  yield from (f"{x}{y}" for x, y in itertools.product(_TASKS, suffixes))
  yield from (f"{x}{y}" for x, y in itertools.product(_MIXTURES, suffixes[:2]))
  yield from _PRETRAINING
  for suffix in ("", "_spans"):
    yield f"ladder_probes{suffix}"
    yield from (f"ladder_probe_{probe}{suffix}" for probe in _PROBES)
