"""SuperGLUE, GLUE, SQuAD and MRQA as seqio tasks, from tables of rows.

Importing this module registers, over TFDS and without touching the data, the
tasks and mixtures of `superglue.toml`, `glue.toml` and `qa.toml`:

* `super_glue_{boolq,cb,copa,multirc,record,rte,wic,wsc}`; the diagnostics
  `super_glue_{axb,axg}`, which only have a test split;
  `super_glue_wsc_classification`, WSC with the answers True and False; `dpr`,
  definite pronoun resolution; `super_glue` and `super_glue_and_dpr` at T5's
  rates, and `super_glue_smallest`.
* `glue_{cola,sst2,mrpc,qqp,stsb,mnli,mnli_matched,mnli_mismatched,qnli,rte,
  wnli,ax}`; `glue` at T5's rates; `glue_mnli_and_dev`; `mrpc_from_qqp` and
  `qqp_from_mrpc`, which train on one of the two and evaluate both;
  `mrpc_to_entailment`, which trains on MRPC and evaluates RTE too.
* `squad`, `squad_*`, `mrqa_*`, and `squad_to_mrqa` and `new_wiki_to_domains`,
  which train on the first set and evaluate all.

Each is also registered as `..._prefixed`, with the task's name in front of the
input, if T5 has a name for it. Each task is also registered as `..._sentinel`,
with a sentinel before the target. The names that T5 and the original code use,
such as `glue_mrpc_v002` and `taskless_glue_mrpc_v002`, find these tasks too.
`prompt-tuning prepare` prepares the data.
"""

from collections.abc import Callable, Mapping, Sequence
import dataclasses
import functools
import pathlib
import tomllib
from typing import Any

import seqio
import tensorflow as tf

from prompt_tuning.data import metrics as metrics_lib
from prompt_tuning.data import (
  postprocessors,
  preprocessors,
  task_lookup,
  task_names,
)
from prompt_tuning.data.vocabulary import MODEL_VOCABULARY

# Data set of TFDS -> the word of `prompt-tuning prepare`.
_COMMANDS = {
  "super_glue": "superglue",
  "definite_pronoun_resolution:1.1.0": "superglue",
  "glue": "glue",
}
MetricFn = Callable[..., Mapping[str, float]]


@dataclasses.dataclass(frozen=True)
class TaskRow:
  """A task without the source of its examples.

  Attributes:
    name: As in `super_glue_<name>`.
    preprocess: Maps a dataset of raw examples to one with "inputs", without the
      prefix, and "targets".
    postprocess: Maps a text to the value that `metric_fns` compare; None leaves
      the text.
    metric_fns: Metrics, in percent.
    labels: The legal targets, in class order; empty for free text.
    tfds_name: Dataset, configuration and version.
    prefix: T5's text before the input, with a trailing space; by default the
      name. Empty where T5 has none.
    class_words: Words for class-label initialisation: the labels, or for free
      text the paper's words (section 3.2).
    mixture_rate: Training examples in T5's mixtures; 0 leaves the task out.
    splits: The splits of the dataset, or split -> its name in TFDS.
    select: Maps a dataset of raw examples, and its split, to the examples that
      the split keeps; None keeps all.
  """

  name: str
  preprocess: Callable[..., tf.data.Dataset]
  postprocess: Callable[..., Any] | None
  metric_fns: Sequence[MetricFn]
  labels: tuple[str, ...] = ()
  tfds_name: str = ""
  prefix: str | None = None
  class_words: tuple[str, ...] = ()
  mixture_rate: int = 0
  splits: Sequence[str] | Mapping[str, str] = ("train", "validation", "test")
  select: Callable[[tf.data.Dataset, str], tf.data.Dataset] | None = None

  def __post_init__(self):
    if self.prefix is None:
      object.__setattr__(self, "prefix", f"{self.name} ")
    if not self.class_words:
      object.__setattr__(self, "class_words", self.labels)


def _task(
  preprocess: str,
  metrics: Sequence[str],
  postprocess: str,
  fields: Mapping[str, str] | Sequence[str] = (),
  labels: Sequence[str] = (),
  synonyms: Mapping[str, str] | None = None,
  select: str = "",
  **columns: Any,
) -> TaskRow:
  """Makes a task from a table of a TOML file."""
  options: dict[str, Any] = {"labels": tuple(labels)} if labels else {}
  named = fields if isinstance(fields, Mapping) else {x: x for x in fields}
  of_text = options | ({"fields": named} if named else {})
  of_answer = options | ({"synonyms": synonyms} if synonyms else {})
  scored: Any = getattr(postprocessors, postprocess) if postprocess else None
  hashable: dict[str, Any] = {
    k: tuple(x) if isinstance(x, list) else x for k, x in columns.items()
  }
  return TaskRow(
    preprocess=functools.partial(getattr(preprocessors, preprocess), **of_text),
    postprocess=scored and functools.partial(scored, **of_answer),
    metric_fns=tuple(getattr(metrics_lib, name) for name in metrics),
    labels=tuple(labels),
    select=getattr(preprocessors, select) if select else None,
    **hashable,
  )


# The registered tasks: name of the seqio task -> its row.
ROWS: dict[str, TaskRow] = {}


class PreparedData(seqio.TfdsDataSource):
  """TFDS data that must already be on disk.

  seqio's own source would start a download in the middle of a run, and a
  mixture would silently skip the tasks without data.
  """

  def __init__(self, tfds_name: str, splits: Sequence[str] | Mapping[str, str]):
    super().__init__(tfds_name, splits=splits, read_only=True)
    self._tfds_splits = splits if isinstance(splits, Mapping) else {}

    # Each way to read a split asks for its name in TFDS first.
    self.tfds_dataset._map_split = self._prepared

  def _prepared(self, split: str) -> str:
    split = self._tfds_splits.get(split, split)
    try:
      prepared = self.tfds_dataset.info.splits
    except ValueError:  # TFDS has no builder for it.
      prepared = {}
    if split not in prepared:
      benchmark = str(self.tfds_dataset.name).split("/")[0]
      raise ValueError(
        f"Expected split {split!r} of {self.tfds_dataset.name} in "
        f"--tfds_data_dir ({self.tfds_dataset.data_dir}), got "
        f"{list(prepared) or 'nothing'}. Prepare it with: "
        f"prompt-tuning prepare {_COMMANDS.get(benchmark, 'squad')} "
        "--tfds_data_dir=DIR. In Python, set the folder with "
        "seqio.set_tfds_data_dir_override(DIR)."
      )
    return split


def add_task(name: str, row: TaskRow, source: seqio.DataSource) -> None:
  """Registers `row` over `source`: plain, prefixed and with a sentinel.

  The source's number of examples includes those that `row.select` leaves out.
  """
  if select := row.select:
    read = source.get_dataset
    source.get_dataset = lambda split="train", **kwargs: select(
      read(split=split, **kwargs), split
    )
  feature = seqio.Feature(MODEL_VOCABULARY, add_eos=True)
  without_sentinel = functools.partial(
    postprocessors.without_sentinel, postprocess=row.postprocess
  )
  behind = tuple(f"{preprocessors.SENTINEL} {label}" for label in row.labels)
  forms: dict[str, tuple[tuple[Any, ...], Any, TaskRow]] = {
    "": ((), row.postprocess, row),
    "_sentinel": (
      (preprocessors.add_sentinel,),
      without_sentinel,
      dataclasses.replace(row, labels=behind),
    ),
  }
  if row.prefix:
    change = functools.partial(preprocessors.add_prefix, prefix=row.prefix)
    forms["_prefixed"] = ((change,), row.postprocess, row)
  for suffix, (change, postprocess, as_row) in forms.items():
    ROWS[f"{name}{suffix}"] = as_row
    seqio.TaskRegistry.add(
      f"{name}{suffix}",
      source=source,  # pyright: ignore[reportArgumentType]
      preprocessors=[
        row.preprocess,
        *change,
        seqio.preprocessors.tokenize,
        seqio.CacheDatasetPlaceholder(),
        seqio.preprocessors.append_eos_after_trim,
      ],
      output_features={"inputs": feature, "targets": feature},
      postprocess_fn=postprocess,
      metric_fns=row.metric_fns,
    )


def add_mixture(name: str, rate_by_task: Mapping[str, int]) -> None:
  """Registers a mixture, and `<name>_prefixed` if its tasks have prefixes."""
  for suffix in ("", "_prefixed"):
    rates = {f"{task}{suffix}": rate for task, rate in rate_by_task.items()}
    if rates.keys() <= ROWS.keys():
      seqio.MixtureRegistry.add(f"{name}{suffix}", list(rates.items()))


def prefixes_of(
  mixture: str, used: str, module: str | None = None
) -> tuple[str, ...]:
  """Returns the prefixes of the inputs of a mixture's tasks, each once.

  Args:
    mixture: A task or mixture `*_prefixed`.
    used: The task or mixture in use, whose tasks must be among the mixture's.
    module: The module that registers them, or None.

  Raises:
    ValueError: if a name is unknown, a task has no prefix, or the mixture lacks
      a task of `used`.
  """
  prefixes: dict[str, list[str]] = {mixture: [], used: []}
  for name, found in prefixes.items():
    for task in seqio.get_subtasks(task_lookup.find(name, module=module)):
      if task.name not in ROWS or not task.name.endswith("_prefixed"):
        raise ValueError(
          f"Expected tasks whose inputs start with their name, got {task.name}."
          f" Use {name}_prefixed, or give TASK_PREFIXES."
        )
      found.append(ROWS[task.name].prefix or "")
  if unknown := set(prefixes[used]) - set(prefixes[mixture]):
    raise ValueError(
      f"Expected {used} to be part of {mixture}, which lacks "
      f"{sorted(unknown)}. Set PROMPT_MIXTURE to the mixture that the prompt "
      "was trained on."
    )
  return tuple(dict.fromkeys(prefixes[mixture]))


def _register(file: str) -> list[TaskRow]:
  """Registers the tasks and mixtures of a TOML file; returns the tasks."""
  tables = tomllib.loads(pathlib.Path(__file__).with_name(file).read_text())
  # Defaults, in which the name replaces "{}", as in a table.
  patterns = {
    "registered": tables["name"],
    "tfds_name": tables.get("tfds_name", ""),
    "t5_name": tables.get("t5_name", ""),
  }
  rows = []
  for table in tables["tasks"]:
    names = table["name"]
    for own in [names] if isinstance(names, str) else names:
      fields = {**patterns, **tables["defaults"], **table, "name": own}
      fields |= {key: fields[key].format(own) for key in patterns}
      name, t5_name = fields.pop("registered"), fields.pop("t5_name")
      row = _task(**fields)
      rows.append(row)
      add_task(name, row, PreparedData(row.tfds_name, row.splits))
      if t5_name:
        get, add = seqio.TaskRegistry.get, seqio.TaskRegistry.add_provider
        add(t5_name, get(f"{name}_prefixed" if row.prefix else name))
        add(f"taskless_{t5_name}", get(name))
  mixtures = tables.get("proportional_mixtures", {})
  for mixture, names in mixtures.items():
    of_tasks = [task for x in names for task in mixtures.get(x, [x])]
    add_mixture(mixture, {x: ROWS[x].mixture_rate for x in of_tasks})
  for mixture, names in tables.get("mixtures", {}).items():
    add_mixture(mixture, dict.fromkeys(names, 1))
  return rows


TASKS = tuple(_register("superglue.toml"))
BY_NAME = {row.name: row for row in TASKS}
SUPER_GLUE = tuple(BY_NAME[name] for name in task_names.SUPER_GLUE)
_register("glue.toml")
_register("qa.toml")
