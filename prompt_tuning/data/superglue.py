"""SuperGLUE as seqio tasks: a table of rows, and the functions that add them.

Importing this module registers, over TFDS `super_glue` 1.0.2 and without
touching the data,

* `super_glue_{boolq,cb,copa,multirc,record,rte,wic,wsc}`,
* `super_glue_{axb,axg}`, the diagnostics, which only have a test split,
* `super_glue_wsc_classification`, WSC with the answers True and False,
* `dpr`, definite pronoun resolution,
* the mixtures `super_glue` and `super_glue_and_dpr` at T5's rates, and
  `super_glue_smallest`, CB, COPA, RTE and WSC in equal parts,

each also as `..._prefixed`, with the task's name in front of the input. Each
task is also registered as `..._sentinel`, with a sentinel before the target.
`prompt-tuning prepare superglue` prepares the data.
"""

from collections.abc import Callable, Iterable, Mapping, Sequence
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

MetricFn = Callable[..., Mapping[str, float]]


@dataclasses.dataclass(frozen=True)
class SuperGlueTask:
  """A task, except for the source of its examples.

  Attributes:
    name: As in `super_glue_<name>`.
    preprocess: Maps a dataset of raw examples to one with "inputs", without the
      prefix, and "targets".
    postprocess: Maps a text to the value that `metric_fns` compare; None leaves
      the text.
    metric_fns: Metrics, in percent.
    labels: The legal targets, in class order; empty for free text.
    tfds_name: Dataset, configuration and version; by default that of `name`.
    prefix: T5's text before the input, with a trailing space; by default the
      name.
    class_words: Words for class-label initialisation: the labels, or for free
      text the paper's words (section 3.2).
    mixture_rate: Training examples in T5's mixtures; 0 leaves the task out.
    splits: The splits of the dataset.
    correct_referents_only: Whether the train split omits wrong referents.
  """

  name: str
  preprocess: Callable[..., tf.data.Dataset]
  postprocess: Callable[..., Any] | None
  metric_fns: Sequence[MetricFn]
  labels: tuple[str, ...] = ()
  tfds_name: str = ""
  prefix: str = ""
  class_words: tuple[str, ...] = ()
  mixture_rate: int = 0
  splits: tuple[str, ...] = ("train", "validation", "test")
  correct_referents_only: bool = False

  def __post_init__(self):
    for field, usual in (
      ("tfds_name", f"super_glue/{self.name}:1.0.2"),
      ("prefix", f"{self.name} "),
      ("class_words", self.labels),
    ):
      object.__setattr__(self, field, getattr(self, field) or usual)


def _task(
  preprocess: str,
  metrics: Sequence[str],
  postprocess: str | None = None,
  fields: Mapping[str, str] | None = None,
  labels: Sequence[str] = (),
  **columns: Any,
) -> SuperGlueTask:
  """Makes a task of a table of `superglue.toml`."""
  options: dict[str, Any] = {"labels": tuple(labels)} if labels else {}
  of_text = options | ({"fields": fields} if fields else {})
  scored: Any = getattr(postprocessors, postprocess) if postprocess else None
  hashable: dict[str, Any] = {
    k: tuple(x) if isinstance(x, list) else x for k, x in columns.items()
  }
  return SuperGlueTask(
    preprocess=functools.partial(getattr(preprocessors, preprocess), **of_text),
    postprocess=scored and functools.partial(scored, **options),
    metric_fns=tuple(getattr(metrics_lib, name) for name in metrics),
    labels=tuple(labels),
    **hashable,
  )


_TABLES = tomllib.loads(
  pathlib.Path(__file__).with_name("superglue.toml").read_text()
)
TASKS = tuple(_task(**fields) for fields in _TABLES["tasks"])
BY_NAME = {row.name: row for row in TASKS}
SUPER_GLUE = tuple(BY_NAME[name] for name in task_names.SUPER_GLUE)

# The registered tasks: name of the seqio task -> its row.
ROWS: dict[str, SuperGlueTask] = {}


class PreparedData(seqio.TfdsDataSource):
  """TFDS data that is on disk already.

  seqio's own source would start a download in the middle of a run, and a
  mixture would silently skip the tasks without data.
  """

  def __init__(self, tfds_name: str, splits: Sequence[str]):
    super().__init__(tfds_name, splits=splits, read_only=True)

    # Each way to read a split asks for its name in TFDS first.
    self.tfds_dataset._map_split = self._prepared

  def _prepared(self, split: str) -> str:
    prepared = self.tfds_dataset.info.splits
    if split not in prepared:
      raise ValueError(
        f"Expected split {split!r} of {self.tfds_dataset.name} in "
        f"--tfds_data_dir ({self.tfds_dataset.data_dir}), got "
        f"{list(prepared) or 'nothing'}. Prepare it with: "
        "prompt-tuning prepare superglue --tfds_data_dir=DIR. In Python, set "
        "the folder with seqio.set_tfds_data_dir_override(DIR)."
      )
    return split


def _correct_referents(source: seqio.DataSource) -> seqio.DataSource:
  """Leaves out the train examples of a source whose label is false.

  T5 learns to write the referent, so wrong noun phrases cannot be targets. The
  other splits keep them, because T5 has to distinguish them in evaluation. The
  number of examples that the source states includes them.
  """
  get_all = source.get_dataset

  def get_dataset(split: str = "train", **kwargs: Any) -> tf.data.Dataset:
    dataset = get_all(split=split, **kwargs)
    if split != "train":
      return dataset
    return dataset.filter(lambda example: example["label"] != 0)

  source.get_dataset = get_dataset
  return source


def add_task(name: str, row: SuperGlueTask, source: seqio.DataSource) -> None:
  """Registers `row` over `source`: as it is, prefixed and with a sentinel."""
  if row.correct_referents_only:
    source = _correct_referents(source)
  feature = seqio.Feature(MODEL_VOCABULARY, add_eos=True)
  with_prefix = functools.partial(preprocessors.add_prefix, prefix=row.prefix)
  without_sentinel = functools.partial(
    postprocessors.without_sentinel, postprocess=row.postprocess
  )
  ROWS[name] = ROWS[f"{name}_prefixed"] = row
  behind = tuple(f"{preprocessors.SENTINEL} {label}" for label in row.labels)
  ROWS[f"{name}_sentinel"] = dataclasses.replace(row, labels=behind)
  for suffix, change, postprocess in (
    ("", (), row.postprocess),
    ("_prefixed", (with_prefix,), row.postprocess),
    ("_sentinel", (preprocessors.add_sentinel,), without_sentinel),
  ):
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


def add_tasks(
  prefix: str,
  source_for: Callable[[SuperGlueTask], seqio.DataSource],
  rows: Iterable[SuperGlueTask] = SUPER_GLUE,
) -> None:
  """Registers `rows` as `<prefix>_<row.name>`, each over its source."""
  for row in rows:
    add_task(f"{prefix}_{row.name}", row, source_for(row))


def add_mixture(name: str, rate_by_task: Mapping[str, int]) -> None:
  """Registers a mixture of tasks, as `name` and as `<name>_prefixed`."""
  seqio.MixtureRegistry.add(name, list(rate_by_task.items()))
  seqio.MixtureRegistry.add(
    f"{name}_prefixed",
    [(f"{task}_prefixed", rate) for task, rate in rate_by_task.items()],
  )


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
      found.append(ROWS[task.name].prefix)
  if unknown := set(prefixes[used]) - set(prefixes[mixture]):
    raise ValueError(
      f"Expected {used} to be part of {mixture}, which lacks "
      f"{sorted(unknown)}. Set PROMPT_MIXTURE to the mixture that the prompt "
      "was trained on."
    )
  return tuple(dict.fromkeys(prefixes[mixture]))


for _row in TASKS:
  add_task(
    _row.name if _row.name == "dpr" else f"super_glue_{_row.name}",
    _row,
    PreparedData(_row.tfds_name, _row.splits),
  )
_RATES = {f"super_glue_{row.name}": row.mixture_rate for row in SUPER_GLUE}
add_mixture("super_glue", _RATES)
add_mixture(
  "super_glue_smallest",
  {f"super_glue_{name}": 1 for name in ("cb", "copa", "rte", "wsc")},
)
add_mixture(
  "super_glue_and_dpr", {**_RATES, "dpr": BY_NAME["dpr"].mixture_rate}
)
