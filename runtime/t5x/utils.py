"""What gin files configure: data sets, checkpoints, and how a run begins."""

from collections.abc import Callable, Mapping, Sequence
import dataclasses
import difflib
import importlib
import re
from typing import Any

from absl import logging
from flax import traverse_util
from flax.linen import partitioning as flax_partitioning
import jax
import jax.numpy as jnp
import numpy as np
import seqio
import tensorflow as tf

from t5x import checkpoints, models
from t5x.partitioning import DataLayout, PjitPartitioner
from t5x.schedules import create_learning_rate_scheduler  # noqa: F401
from t5x.train_state import Params, TrainState


@dataclasses.dataclass
class DatasetConfig:
  """Which examples, in which form.

  Attributes:
    mixture_or_task_name: Registered with seqio.
    task_feature_lengths: Feature -> length in tokens; None takes the longest of
      the split (evaluation only).
    split: Such as "train".
    batch_size: Examples of the global batch.
    shuffle: Whether to shuffle, by `seed`.
    seed: Of the order; None draws one.
    use_cached: Whether to read seqio's cache.
    pack: Whether to put several examples into a row.
    module: Imported first, to register the task.
    use_memory_cache: Whether evaluation keeps its examples in memory.
    trim_output_features: Whether features are cut to their length.
  """

  mixture_or_task_name: str
  task_feature_lengths: Mapping[str, int] | None
  split: str
  batch_size: int
  shuffle: bool
  seed: int | None
  use_cached: bool = False
  pack: bool = False
  module: str | None = None
  use_memory_cache: bool = True
  trim_output_features: bool = True

  def task_or_mixture(self) -> seqio.Task | seqio.Mixture:
    """Returns what the name names; see `find_task_or_mixture`."""
    return find_task_or_mixture(
      self.mixture_or_task_name, self.split, self.module
    )

  def num_input_examples(self) -> int | None:
    """Returns how many examples the split has, if seqio knows."""
    tasks = seqio.get_subtasks(self.task_or_mixture())
    counts = [task.num_input_examples(self.split) for task in tasks]
    known = [count for count in counts if count is not None]
    return sum(known) if len(known) == len(counts) else None


@dataclasses.dataclass
class SaveCheckpointConfig:
  """When to save, and what to keep.

  Attributes:
    period: Steps between checkpoints; None saves at the end only.
    keep: How many checkpoints to keep; None keeps all.
    checkpointer_cls: `checkpoints.Checkpointer` or `SaveBestCheckpointer`.
  """

  period: int | None = None
  keep: int | None = None
  checkpointer_cls: Callable[..., checkpoints.Checkpointer] = (
    checkpoints.Checkpointer
  )


@dataclasses.dataclass
class RestoreCheckpointConfig:
  """Which base checkpoint to begin with.

  Attributes:
    path: A checkpoint, or a folder of checkpoints; None begins from scratch.
    mode: "specific" or "latest".
    assignment_map: Pairs (regular expression, replacement): a parameter whose
      name `target/...` matches in full is read from the replaced name; None
      takes it from its initialiser instead.
    strict: Whether a parameter that only one side has is an error.
    fallback_to_scratch: Whether parameters may come from initialisers.
    dtype: Of the restored parameters; None keeps the checkpoint's.
  """

  path: str | None
  mode: str = "latest"
  assignment_map: Sequence[tuple[str, str | None]] | None = None
  strict: bool = True
  fallback_to_scratch: bool = False
  dtype: str | None = None

  def __post_init__(self):
    if self.mode not in ("specific", "latest"):
      raise ValueError(
        f"Expected restore mode 'specific' or 'latest', got {self.mode!r}."
      )

  def source(self, name: str) -> str | None:
    """Returns the name in the checkpoint of a parameter of the model."""
    full = f"target/{name}"
    for pattern, replacement in self.assignment_map or ():
      if match := re.fullmatch(pattern, full):
        if replacement is None:
          return None
        return match.expand(replacement).removeprefix("target/")
    return name


@dataclasses.dataclass
class CheckpointConfig:
  """How a training run restores and saves."""

  save: SaveCheckpointConfig | None = None
  restore: RestoreCheckpointConfig | None = None


def import_module(module: str) -> None:
  """Imports a module by name, to register tasks.

  Raises:
    ValueError: if there is no such module.
  """
  try:
    importlib.import_module(module)
  except ModuleNotFoundError as e:
    raise ValueError(
      f"MIXTURE_OR_TASK_MODULE={module!r} cannot be imported: {e}."
    ) from e


def find_task_or_mixture(
  name: str, split: str | None = None, module: str | None = None
) -> seqio.Task | seqio.Mixture:
  """Returns what a name names.

  Args:
    name: Registered with seqio.
    split: One that it must have.
    module: Imported first, to register it.

  Raises:
    ValueError: if the module, the name or the split is unknown.
  """
  if module:
    import_module(module)
  known = seqio.MixtureRegistry.names() | seqio.TaskRegistry.names()
  if name not in known:
    near = difflib.get_close_matches(name, sorted(known), n=5, cutoff=0.5)
    raise ValueError(
      f"No seqio task or mixture {name!r}"
      + (f"; near: {', '.join(near)}." if near else ".")
      + f" Registered by MIXTURE_OR_TASK_MODULE={module!r}: {len(known)} names."
    )
  provider = seqio.get_mixture_or_task(name)
  splits = {
    split for task in seqio.get_subtasks(provider) for split in task.splits
  }
  if split and splits and split not in splits:
    raise ValueError(f"{name} has no split {split!r}; it has {sorted(splits)}.")
  return provider


def round_vocab_size_to_multiple(
  vocabulary: seqio.Vocabulary, divisor: int = 128
) -> int:
  """Returns the number of embedding rows for a vocabulary."""
  return -(-vocabulary.vocab_size // divisor) * divisor


def verify_matching_vocabs(
  cfg: DatasetConfig, model: models.EncoderDecoderModel
) -> None:
  """Refuses a task and a model that do not share their vocabularies.

  Raises:
    ValueError: if they differ, or the model has fewer rows than pieces, or a
      cached task was tokenized with another vocabulary.
  """
  provider = cfg.task_or_mixture()
  features = provider.output_features
  for name, vocabulary in (
    ("inputs", model.input_vocabulary),
    ("targets", model.output_vocabulary),
  ):
    ours = features[name].vocabulary
    if not ours == vocabulary:
      raise ValueError(
        f"The {name} of {cfg.mixture_or_task_name} are of vocabulary {ours}, "
        f"the model's of {vocabulary}: tokens would mean other words. Use the "
        "model's gin file that binds the task's VOCABULARY."
      )
  rows = getattr(getattr(model.module, "config", None), "vocab_size", None)
  size = model.output_vocabulary.vocab_size
  if rows is not None and rows < size:
    raise ValueError(
      f"The model has {rows} embedding rows for {size} pieces: bind "
      f"network.T5Config.vocab_size to at least {size}."
    )
  if cfg.use_cached:
    for task in seqio.get_subtasks(provider):
      _verify_cached_tokens(task, cfg.split)


def _verify_cached_tokens(task: seqio.Task, split: str) -> None:
  """Compares the first cached tokens with those of the text beside them."""
  if not task.supports_caching or split not in task.splits:
    return
  if task.cache_dir is None:
    raise ValueError(
      f"USE_CACHED_TASKS is set, but {task.name} is in none of "
      "--seqio_additional_cache_dirs. Write it with: python "
      "scripts/cache_tasks.py"
    )
  dataset = task.get_dataset(None, split, use_cached=True, shuffle=False)
  for example in dataset.take(1).as_numpy_iterator():
    for name, feature in task.output_features.items():
      text = example.get(f"{name}_pretokenized")
      if text is None:
        continue
      tokens = feature.vocabulary.encode(text.decode())
      if example[name].tolist()[: len(tokens)] != tokens:
        raise ValueError(
          f"The cache {task.cache_dir} has tokens of another vocabulary than "
          f"the model's, {feature.vocabulary}. Write one for this model into "
          "another folder: python scripts/cache_tasks.py --vocabulary=..."
        )


def get_dataset(
  cfg: DatasetConfig,
  shard_id: int,
  num_shards: int,
  feature_converter_cls: Callable[..., seqio.FeatureConverter],
  num_epochs: int | None = None,
) -> tf.data.Dataset:
  """Makes batches of one shard of a data set.

  Args:
    cfg: Which examples; the lengths must be given.
    shard_id: This process's part.
    num_shards: The number of parts.
    feature_converter_cls: From task features to model features.
    num_epochs: None repeats without end.

  Returns:
    Batches of `cfg.batch_size / num_shards`; the order depends on the seed
    alone.

  Raises:
    ValueError: if the split is empty.
  """
  if cfg.task_feature_lengths is None:
    raise ValueError("Training needs TASK_FEATURE_LENGTHS.")
  dataset = seqio.get_dataset(
    cfg.task_or_mixture(),
    task_feature_lengths=cfg.task_feature_lengths,
    dataset_split=cfg.split,
    shuffle=cfg.shuffle,
    num_epochs=num_epochs,
    feature_converter=feature_converter_cls(pack=cfg.pack),
    shard_info=seqio.ShardInfo(index=shard_id, num_shards=num_shards),
    use_cached=cfg.use_cached,
    seed=cfg.seed,
    trim_output_features=cfg.trim_output_features,
    verbose=False,
  )
  if next(iter(dataset.take(1)), None) is None:
    raise ValueError(
      f"The split {cfg.split!r} of {cfg.mixture_or_task_name} is empty."
    )
  return dataset.batch(
    cfg.batch_size // num_shards, drop_remainder=num_epochs is None
  ).prefetch(tf.data.AUTOTUNE)


def get_training_eval_datasets(
  cfg: DatasetConfig,
  shard_id: int,
  num_shards: int,
  eval_steps: int,
  feature_converter_cls: Callable[..., seqio.FeatureConverter],
) -> Mapping[str, tf.data.Dataset]:
  """Makes the first batches of each task's evaluation split.

  Args:
    cfg: The task or mixture.
    shard_id: This process's part.
    num_shards: The number of parts.
    eval_steps: Batches of each.
    feature_converter_cls: From task features to model features.

  Returns:
    Task -> at most `eval_steps` batches, repeated over the split.
  """
  return {
    task.name: get_dataset(
      dataclasses.replace(cfg, mixture_or_task_name=task.name),
      shard_id,
      num_shards,
      feature_converter_cls,
      num_epochs=None,
    ).take(eval_steps)
    for task in seqio.get_subtasks(cfg.task_or_mixture())
    if cfg.split in (task.splits or ())
  }


class TrainStateInitializer:
  """Makes a state from scratch, from a base checkpoint, or from both."""

  def __init__(
    self,
    optimizer_def: Any,
    init_fn: Callable[..., Params],
    input_shapes: Mapping[str, tuple[int, ...]],
    partitioner: PjitPartitioner,
    input_types: Mapping[str, Any] | None = None,
  ):
    """Computes shapes and shardings; no array is made yet.

    Args:
      optimizer_def: Says which parameters train.
      init_fn: `EncoderDecoderModel.get_initial_variables`.
      input_shapes: Shapes of a batch.
      partitioner: Where to put what.
      input_types: Dtypes of a batch.

    Raises:
      ValueError: if a logical axis has no rule, or the optimizer's patterns do
        not fit.
    """
    self._optimizer_def = optimizer_def
    self._partitioner = partitioner
    self._init_params = lambda rng: init_fn(rng, input_shapes, input_types)[
      "params"
    ]
    variables = jax.eval_shape(
      lambda rng: init_fn(rng, input_shapes, input_types), jax.random.key(0)
    )
    self.param_shapes = traverse_util.flatten_dict(variables["params"], sep="/")
    self._param_axes = partitioner.shardings_of(
      flax_partitioning.get_axis_names(variables["params_axes"])
    )
    self.train_state_shapes: TrainState = jax.eval_shape(
      lambda params: TrainState.create(optimizer_def, params),
      variables["params"],
    )
    self.train_state_axes = self.train_state_shapes.shardings(
      self._param_axes, partitioner.sharding()
    )

  def _initial(self, rng: jax.Array, names: Sequence[str]) -> dict[str, Any]:
    """Runs the initialisers of some parameters."""
    axes = traverse_util.flatten_dict(self._param_axes, sep="/")

    def init(rng):
      params = traverse_util.flatten_dict(self._init_params(rng), sep="/")
      return {name: params[name] for name in names}

    return self._partitioner.partition(
      init, out_axis_resources={name: axes[name] for name in names}
    )(rng)

  def _state(self, params: Mapping[str, Any], step: int) -> TrainState:
    state = self._partitioner.partition(
      lambda params: TrainState.create(self._optimizer_def, params),
      out_axis_resources=self.train_state_axes,
      donate_argnums=0,
    )(traverse_util.unflatten_dict(params, sep="/"))
    return state.replace(
      opt_state=state.opt_state.replace(
        step=jax.device_put(
          np.int32(step), self.train_state_axes.opt_state.step
        )
      )
    )

  def from_scratch(self, init_rng: jax.Array) -> TrainState:
    """Initialises everything."""
    return self._state(self._initial(init_rng, list(self.param_shapes)), 0)

  def from_base_model(
    self, cfg: RestoreCheckpointConfig, init_rng: jax.Array | None = None
  ) -> tuple[TrainState, checkpoints.BaseCheckpoint]:
    """Reads a base checkpoint and initialises what it lacks by intent.

    Args:
      cfg: The checkpoint, and what is not to be read from it.
      init_rng: PRNG key for the latter.

    Returns:
      The state, whose step is the checkpoint's, and the checkpoint.

    Raises:
      ValueError: if the checkpoint and the model do not have the same
        parameters. It names them.
    """
    if cfg.path is None:
      raise ValueError("Give INITIAL_CHECKPOINT_PATH: the base checkpoint.")
    base = checkpoints.open_checkpoint(cfg.path)
    sources = {
      name: source
      for name in self.param_shapes
      if (source := cfg.source(name)) is not None
    }
    if problems := self._differences(base, sources):
      message = (
        f"{base.path} does not fit the model: {len(problems)} differences. "
        f"{'; '.join(problems[:10])}."
      )
      if cfg.strict:
        raise ValueError(message)
      logging.warning(message)
      sources = {k: v for k, v in sources.items() if v in base.shapes}
    axes = traverse_util.flatten_dict(self._param_axes, sep="/")
    dtype = cfg.dtype and jnp.dtype(cfg.dtype)
    read = base.read(
      {
        source: jax.ShapeDtypeStruct(
          self.param_shapes[name].shape,
          dtype or base.shapes[source].dtype,
          sharding=axes[name],
        )
        for name, source in sources.items()
      }
    )
    params = {name: read[source] for name, source in sources.items()}
    if missing := [name for name in self.param_shapes if name not in params]:
      if not cfg.fallback_to_scratch or init_rng is None:
        raise ValueError(
          f"{', '.join(missing[:10])} would come from initialisers, but "
          "fallback_to_scratch is off or there is no seed for them."
        )
      logging.info("From initialisers: %s.", ", ".join(missing))
      params |= self._initial(init_rng, missing)
    return self._state(params, base.step), base

  def _differences(
    self, base: checkpoints.BaseCheckpoint, sources: Mapping[str, str]
  ) -> list[str]:
    """Says what does not fit: parameter of the model -> name in `base`."""
    problems = [
      f"{name} is not in the checkpoint"
      + ("" if source == name else f" as {source}")
      for name, source in sources.items()
      if source not in base.shapes
    ]
    problems += [
      f"{name} of the checkpoint is not in the model"
      for name in base.shapes
      if name not in self.param_shapes and name not in sources.values()
    ]
    problems += [
      f"{name} has shape {base.shapes[source].shape}, expected {shape}"
      for name, source in sources.items()
      if source in base.shapes
      and base.shapes[source].shape != (shape := self.param_shapes[name].shape)
    ]
    return problems


def count_parameters(state: TrainState) -> dict[str, int]:
  """Returns how many parameters train and how many are frozen."""
  return {
    group: sum(int(x.size) for x in jax.tree.leaves(getattr(state, group)))
    for group in ("trainable", "frozen")
  }


def write_model_info(
  log_file: str, state: TrainState, axes: TrainState
) -> None:
  """Lists the parameters and counts them.

  Args:
    log_file: The file to write.
    state: The state.
    axes: Its shardings.
  """
  lines = []
  for group in ("trainable", "frozen"):
    params = traverse_util.flatten_dict(getattr(state, group), sep="/")
    shardings = traverse_util.flatten_dict(getattr(axes, group), sep="/")
    lines += [
      f"{group:9} {name:60} {x.shape!s:16} {x.dtype!s:9} {shardings[name].spec}"
      for name, x in sorted(params.items())
    ]
  counts = count_parameters(state)
  total = sum(counts.values())
  lines.append(
    f"{counts['trainable']:,} of {total:,} parameters train "
    f"({100 * counts['trainable'] / total:.5f}%)."
  )
  with open(log_file, "w", encoding="utf-8") as f:
    f.write("\n".join(lines) + "\n")


def get_infer_fn(
  infer_step: Callable[[Params, models.Batch], Any],
  batch_size: int,
  train_state_axes: TrainState,
  partitioner: PjitPartitioner,
) -> Callable[[tf.data.Dataset, TrainState], list[tuple[int, Any]]]:
  """Makes a function that applies a step to every example of a data set.

  Args:
    infer_step: (all parameters, batch) -> tree of arrays `[B, ...]`.
    batch_size: Examples of the global batch.
    train_state_axes: Shardings of the state.
    partitioner: Where to run.

  Returns:
    A function of an enumerated data set, every process the whole of it, and a
    state. It gives (index, tree of numpy arrays) in the order of the data.
  """
  layout: DataLayout = partitioner.get_data_layout(batch_size)
  local_size = batch_size // layout.num_shards
  step = partitioner.partition(
    lambda state, batch: infer_step(state.params, batch),
    in_axis_resources=(
      train_state_axes,
      partitioner.sharding(partitioner.data_partition_spec),
    ),
    out_axis_resources=partitioner.sharding(),
  )

  local = slice(
    layout.shard_id * local_size, (layout.shard_id + 1) * local_size
  )

  def fill(x: np.ndarray) -> np.ndarray:
    """Fills the last batch up by repeating its first example."""
    return np.concatenate([x, np.repeat(x[:1], batch_size - len(x), axis=0)])

  def infer(dataset: tf.data.Dataset, state: TrainState):
    results = []
    for indices, batch in dataset.batch(batch_size).as_numpy_iterator():
      batch = {name: fill(x)[local] for name, x in batch.items()}
      outputs = jax.device_get(step(state, partitioner.shard_batch(batch)))
      for row, index in enumerate(indices.tolist()):
        results.append((index, jax.tree.map(lambda x, i=row: x[i], outputs)))
    return results

  return infer
