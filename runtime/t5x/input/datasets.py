"""Data sets of a run: seqio's tasks, as batches of model features.

A model has an `input_vocabulary`, an `output_vocabulary` and a `module`, the
network, whose `config.vocab_size`, if it has one, is its number of embedding
rows.

seqio registers tasks once for a whole program, but models come and go. The
vocabulary of a task may be a placeholder for the model's, of a class with
`stands_for_model = True`. Such a task is used through a copy with the model's
vocabulary. The copy is not registered, so two models can use one task at once.
"""

from collections.abc import Callable, Iterator, Mapping, Sequence
import contextlib
import copy
import dataclasses
import functools
import importlib
import secrets
from typing import Annotated, Any
import uuid

from pydantic import Field, PositiveInt
import seqio
import tensorflow as tf

from t5x import multihost
from t5x.configuration import arguments
from t5x.configuration.client import clients
from t5x.input import in_memory, pipelines


def find_task(
  name: str | seqio.Task | seqio.Mixture,
  split: str | None = None,
  module: str | None = None,
) -> seqio.Task | seqio.Mixture:
  """Returns the task or mixture with a name.

  A client with tasks may look them up itself, for better messages.

  Args:
    name: A name registered with seqio, or the task or mixture itself.
    split: A split that it must have.
    module: A module that registers it, imported first.

  Raises:
    ValueError: if the name is unknown, or a client does not know the module or
      the split.
  """
  for client in clients():
    if client.find_task is not None:
      return client.find_task(name, split, module)
  if module:
    importlib.import_module(module)
  return seqio.maybe_get_mixture_or_task(name)


@dataclasses.dataclass
class DatasetConfig:
  """The examples of a run, and their form.

  Attributes:
    mixture_or_task_name: A name registered with seqio, or a task or mixture.
    task_feature_lengths: Feature -> length in tokens; None takes the longest of
      the split (evaluation only).
    split: The split, such as "train".
    batch_size: Examples of the global batch.
    shuffle: Whether to shuffle, with `seed`.
    seed: Seed of the order; None draws one.
    use_cached: Whether to read seqio's cache.
    pack: Whether to put several examples into a row.
    module: A module that registers the task, imported first.
    use_memory_cache: Whether evaluation keeps its examples in memory.
    trim_output_features: Whether features are cut to their length.
    max_unknown: The greatest share of the pieces of training inputs that the
      vocabulary may not know.
  """

  mixture_or_task_name: str | seqio.Task | seqio.Mixture
  task_feature_lengths: Mapping[str, PositiveInt] | None
  split: str
  batch_size: PositiveInt
  shuffle: bool
  seed: int | None
  use_cached: bool = False
  pack: bool = False
  module: str | None = None
  use_memory_cache: bool = True
  trim_output_features: bool = True
  max_unknown: Annotated[float, Field(ge=0, le=1)] = 0.1

  def __post_init__(self):
    arguments.check(type(self), vars(self))

  @property
  def name(self) -> str:
    """The name of the task or mixture."""
    provider = self.mixture_or_task_name
    return provider if isinstance(provider, str) else provider.name

  def task_or_mixture(self) -> seqio.Task | seqio.Mixture:
    """Returns the task or mixture with the name; see `find_task`."""
    return find_task(self.mixture_or_task_name, self.split, self.module)

  def num_input_examples(self) -> int | None:
    """Returns the number of examples of the split, if seqio knows it."""
    counts = [
      task.num_input_examples(self.split)
      for task in seqio.get_subtasks(self.task_or_mixture())
      # A mixture uses the tasks that have the split.
      if not task.splits or self.split in task.splits
    ]
    known = [count for count in counts if count is not None]
    return sum(known) if len(known) == len(counts) else None


def for_model(cfg: DatasetConfig, model: Any) -> DatasetConfig:
  """Returns the configuration of the same examples, in a model's tokens.

  Args:
    cfg: The examples.
    model: The model, whose vocabularies replace placeholders.

  Raises:
    ValueError: if the module, the name or the split is unknown, or the task's
      vocabulary is not the model's.
  """
  provider = _bound(cfg.task_or_mixture(), model)
  cfg = dataclasses.replace(cfg, mixture_or_task_name=provider)
  verify_matching_vocabs(cfg, model)
  return cfg


def _bound(
  provider: seqio.Task | seqio.Mixture, model: Any
) -> seqio.Task | seqio.Mixture:
  # One copy of each: seqio takes two copies of a task for two tasks.
  @functools.cache
  def bound(provider: Any) -> Any:
    if not isinstance(provider, seqio.Mixture):
      return _bound_task(provider, model)
    parts = {k: bound(x) for k, x in provider._task_map.items()}
    mixture = copy.copy(provider)
    mixture._task_map = parts
    mixture._tasks = [parts[x.name] for x in provider._tasks]
    mixture._sub_mixtures = [parts[x.name] for x in provider._sub_mixtures]
    return mixture

  return bound(provider)


def _bound_task(task: seqio.Task, model: Any) -> seqio.Task:
  features = {
    name: dataclasses.replace(
      feature,
      vocabulary=model.input_vocabulary
      if name == "inputs"
      else model.output_vocabulary,
      add_eos=feature.add_eos and (model.ends_inputs or name != "inputs"),
    )
    for name, feature in task.output_features.items()
    if getattr(type(feature.vocabulary), "stands_for_model", False)
    # The task may have been made for the model.
    or (not model.ends_inputs and feature.vocabulary == model.output_vocabulary)
  }
  if not features:
    return task
  return task.replace(output_features={**task.output_features, **features})


@contextlib.contextmanager
def registered(provider: seqio.Task | seqio.Mixture) -> Iterator[str]:
  """Registers a task or mixture under a temporary name.

  `seqio.Evaluator` takes a name, not a task.

  Args:
    provider: The task or mixture; its own name stays.

  Yields:
    A new, unique name.
  """
  registry = (
    seqio.MixtureRegistry
    if isinstance(provider, seqio.Mixture)
    else seqio.TaskRegistry
  )
  name = f"{provider.name}_{uuid.uuid4().hex}"
  registry.add_provider(name, provider)
  try:
    yield name
  finally:
    registry.remove(name)


def verify_matching_vocabs(cfg: DatasetConfig, model: Any) -> None:
  """Refuses a task and a model that do not share their vocabularies.

  Raises:
    ValueError: if they differ, a feature has no length, the model has fewer
      rows than pieces, or a cached task was tokenized with another vocabulary.
  """
  provider = cfg.task_or_mixture()
  features = provider.output_features
  for name, vocabulary in (
    ("inputs", model.input_vocabulary),
    ("targets", model.output_vocabulary),
  ):
    lengths = cfg.task_feature_lengths
    if lengths is not None and name not in lengths:
      raise ValueError(
        "Expected TASK_FEATURE_LENGTHS of inputs and targets, got "
        f"{dict(lengths)}."
      )
    ours = features[name].vocabulary
    if not ours == vocabulary:
      raise ValueError(
        f"The {name} of {cfg.name} have the vocabulary {ours}, "
        f"the model has {vocabulary}: tokens would mean other words. Use the "
        "model's gin file that binds the task's VOCABULARY."
      )
  rows = getattr(getattr(model.module, "config", None), "vocab_size", None)
  vocabularies = (model.input_vocabulary, model.output_vocabulary)
  size = max(vocabulary.vocab_size for vocabulary in vocabularies)
  if rows is not None and rows < size:
    raise ValueError(
      f"The model has {rows} embedding rows for {size} pieces: bind "
      f"network.T5Config.vocab_size to at least {size}."
    )
  for task in seqio.get_subtasks(provider) if cfg.use_cached else ():
    if not task.supports_caching or cfg.split not in task.splits:
      continue
    if task.cache_dir is None:
      raise ValueError(
        f"USE_CACHED_TASKS is set, but {task.name} is in none of "
        "--seqio_additional_cache_dirs. Write it with: "
        "prompt-tuning cache"
      )
    dataset = pipelines.build(
      task.get_dataset, None, cfg.split, use_cached=True, shuffle=False
    )
    # Compares the first cached tokens with the tokens of the text beside them.
    for example in dataset.take(1).as_numpy_iterator():
      for name, feature in task.output_features.items():
        if (text := example.get(f"{name}_pretokenized")) is None:
          continue
        tokens = feature.vocabulary.encode(text.decode())
        if example[name].tolist()[: len(tokens)] != tokens:
          raise ValueError(
            f"The cache {task.cache_dir} has tokens of another vocabulary than "
            f"the model's, {feature.vocabulary}. Write a cache for this model "
            "to another folder: prompt-tuning cache --vocabulary=..."
          )


def batch_shapes(
  cfg: DatasetConfig,
  feature_converter_cls: Callable[..., seqio.FeatureConverter],
) -> dict[str, tuple[int, int]]:
  """Returns the shape of each model feature in a global batch.

  Raises:
    ValueError: if the configuration gives no lengths.
  """
  if cfg.task_feature_lengths is None:
    raise ValueError(f"The split {cfg.split!r} needs TASK_FEATURE_LENGTHS.")
  converter = feature_converter_cls(pack=cfg.pack)
  lengths = converter.get_model_feature_lengths(cfg.task_feature_lengths)
  return {name: (cfg.batch_size, length) for name, length in lengths.items()}


def get_dataset(
  cfg: DatasetConfig,
  rows: Sequence[int] | None,
  feature_converter_cls: Callable[..., seqio.FeatureConverter],
) -> tf.data.Dataset:
  """Makes one process's part of the batches of a data set.

  A batch has the same examples however many processes share it, so that a run
  can resume with another number of processes. Each process reads all the data.

  Args:
    cfg: The examples; their lengths must be given.
    rows: This process's part of each batch; None means all rows.
    feature_converter_cls: Converts task features to model features.

  Returns:
    These rows of each batch, repeated without end. A batch has the examples
    that `seqio.get_dataset` gives to a single process, in the same order.

  Raises:
    ValueError: if the split of a task is empty.
  """
  if cfg.task_feature_lengths is None:
    raise ValueError("Training needs TASK_FEATURE_LENGTHS.")
  seed = cfg.seed
  if seed is None:  # One for all processes, which share the same batches.
    seed = multihost.from_first_process(secrets.randbits(31))
  provider = cfg.task_or_mixture()
  arguments = {
    "mixture_or_task_name": provider,
    "task_feature_lengths": cfg.task_feature_lengths,
    "dataset_split": cfg.split,
    "feature_converter": feature_converter_cls(
      pack=cfg.pack,
      # Features that are cut to their length need no length check.
      apply_length_check=not cfg.trim_output_features,
    ),
    "use_cached": cfg.use_cached,
    "seed": seed,
    "trim_output_features": cfg.trim_output_features,
  }
  # Separate pipelines: each iteration over a shuffled one has another order,
  # and training needs the first.
  for task in seqio.get_subtasks(provider):
    if cfg.split not in task.splits:
      continue  # A mixture uses the tasks that have the split.
    rows_of_task = pipelines.build(
      task.get_dataset,
      cfg.task_feature_lengths,
      cfg.split,
      cfg.use_cached,
      shuffle=False,
    )
    if next(iter(rows_of_task.take(1)), None) is None:
      raise ValueError(f"The split {cfg.split!r} of {task.name} is empty.")
  can_keep = cfg.shuffle and not cfg.pack
  if can_keep and in_memory.is_possible(provider, cfg.split):
    dataset = pipelines.build(in_memory.shuffled, **arguments)
  else:
    dataset = pipelines.build(
      seqio.get_dataset,
      **arguments,
      verbose=False,
      shuffle=cfg.shuffle,
      num_epochs=None,
    )
  batches = dataset.batch(cfg.batch_size, drop_remainder=True)
  if rows is not None and len(rows) < cfg.batch_size:
    batches = batches.map(
      lambda batch: {k: tf.gather(x, rows) for k, x in batch.items()}
    )
  # The end of a run would wait for the pipeline's autotuner, which sleeps for
  # up to a minute at a time.
  options = tf.data.Options()
  options.autotune.enabled = False
  return batches.prefetch(tf.data.AUTOTUNE).with_options(options)
