"""The names of the tasks that `prompt_tuning.tasks` registers, for help texts.

Registering the tasks imports TensorFlow, which takes seconds. A test compares
the names.
"""

from collections.abc import Collection, Mapping, Sequence
import difflib

# The tasks whose mean is the SuperGLUE score.
SUPER_GLUE = ("boolq", "cb", "copa", "multirc", "record", "rte", "wic", "wsc")
# The tasks whose mean is the GLUE score; MNLI's two are one.
GLUE = (
  *("cola", "mnli_matched", "mnli_mismatched", "mrpc", "qnli", "qqp", "rte"),
  *("sst2", "stsb"),
)
_MORE_OF_GLUE = ("mnli", "wnli", "ax", "mrpc_from_qqp", "qqp_from_mrpc")
_MRQA = (
  *("bio_asq", "drop", "duo_rc", "race", "relation_extraction"),
  "textbook_qa",
)
_LIKE_SQUAD = ("new_wiki", "reddit", "amazon_reviews", "xquad_en", "quoref")
# Of the miniature world.
_DOMAINS = ("home", "people", "values", "longer", "answers")
_MORE = ("axb", "axg", "wsc_classification")
# For a command without a task.
NONE_GIVEN = (
  "Expected a seqio task or mixture, got none. Give its name: "
  "--gin.TASK=\"'super_glue_cb'\""
)


def _of(prefix: str, names: Sequence[str]) -> tuple[str, ...]:
  return tuple(f"{prefix}_{name}" for name in names)


def by_heading() -> Mapping[str, Sequence[str]]:
  """Returns heading -> names of tasks, without their variants."""
  return {
    "Tasks, each as NAME_prefixed and NAME_sentinel too": (
      *_of("super_glue", (*SUPER_GLUE, *_MORE)),
      "dpr",
      *_of("glue", (*GLUE, *_MORE_OF_GLUE)),
      *_of("mini", SUPER_GLUE),
      *_of("ladder", SUPER_GLUE),
      *_of("ladder_boolq", _DOMAINS),
      *_of("ladder_cb", _DOMAINS),
    ),
    "Mixtures of them, each as NAME_prefixed too": (
      *("super_glue", "super_glue_smallest", "super_glue_and_dpr"),
      *("glue", "glue_mnli_and_dev", "mrpc_from_qqp", "qqp_from_mrpc"),
      *(
        "mini_super_glue",
        "ladder",
        "ladder_boolq_domains",
        "ladder_cb_domains",
      ),
    ),
    "Questions about a text, each task as NAME_sentinel too": (
      *("squad", "squad_to_mrqa", "new_wiki_to_domains"),
      *_of("mrqa", _MRQA),
      *_of("squad", _LIKE_SQUAD),
    ),
    "To pretrain with": (
      *("ladder_lm", "ladder_lm_long", "ladder_span_corruption"),
      *("ladder_probes", "ladder_probes_spans"),
    ),
  }


def all_names() -> set[str]:
  """Returns all names, with those of the variants."""
  return {
    name + variant
    for names in by_heading().values()
    for name in names
    for variant in ("", "_prefixed", "_sentinel")
  }


def unknown(name: str, known: Collection[str]) -> str:
  """Returns a message on a task's name that is not one of the known ones."""
  text = f"No seqio task or mixture is called {name!r}."
  if name.lower().endswith((".csv", ".tsv", ".jsonl")):
    return (
      f"{text} For a file: --gin_file=gin/tasks/files.gin "
      f"--gin.TRAIN_FILE=\"'{name}'\". In Python, pass its pairs (input, "
      "target)."
    )
  near = difflib.get_close_matches(name, sorted(known), n=5, cutoff=0.5)
  if near:
    text += f" Did you mean {' or '.join(near)}?"
  return f"{text} --help of t5x.train lists the tasks."
