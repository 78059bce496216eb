"""Inference as a function: `python -m t5x.infer` is a command line for it."""

from collections.abc import Callable, Iterator, Mapping
import dataclasses
import json
import os
from typing import Any

from etils import epath
import jax
import numpy as np
import seqio
import tensorflow as tf

from t5x import checkpoints, gin_utils, models, multihost, partitioning, utils
from t5x.configuration import run_configuration
from t5x.files import partial_file, run_lock
from t5x.input import task_binding, truncation
from t5x.runs import events, initialization, records

MODES = ("predict", "predict_with_aux", "score")


def _to_json(value: Any) -> Any:
  """Makes a value of an example, or of a model's output, JSON."""
  if isinstance(value, bytes):
    return value.decode()
  if isinstance(value, dict):
    return {name: _to_json(x) for name, x in value.items()}
  if isinstance(value, np.ndarray | np.generic):
    return _to_json(value.tolist())
  if isinstance(value, list):
    return [_to_json(x) for x in value]
  return value


@dataclasses.dataclass(frozen=True)
class InferenceOutcome:
  """What an inference left.

  Attributes:
    status: "finished", or "interrupted" because the caller wanted it to stop:
      called again, it goes on.
    examples: Path of a file -> its number of examples, of those that are whole.
  """

  status: str
  examples: dict[str, int]


def infer(
  *,
  mode: str,
  model: models.EncoderDecoderModel,
  dataset_cfg: utils.DatasetConfig,
  restore_checkpoint_cfg: utils.RestoreCheckpointConfig,
  partitioner: partitioning.PjitPartitioner,
  output_dir: str,
  checkpoint_period: int,
  shard_id: int = 0,
  num_shards: int = 1,
  fallback_init_rng: int | None = None,
  summarize_config_fn: Callable[..., None]
  | None = gin_utils.summarize_gin_config,
  configuration: run_configuration.RunConfiguration | None = None,
  on_event: events.OnEvent = events.ignore,
  should_stop: events.ShouldStop = events.never,
) -> InferenceOutcome:
  """Runs a model on every example of a split.

  Each task gets a file `<task>-<mode>.jsonl-<shard>-of-<shards>`, a line an
  example in the order of the split: `inputs`, the example without its tokens,
  and `prediction`, with `aux`, or `score` (log likelihood of the targets, in
  nats). It is written in chunks; an interrupted run goes on after the last,
  and a file that is whole stays.

  Args:
    mode: "predict", "predict_with_aux" or "score".
    model: The model.
    dataset_cfg: Which examples.
    restore_checkpoint_cfg: The weights.
    partitioner: Where to run.
    output_dir: For the files.
    checkpoint_period: Batches of a chunk.
    shard_id: The part of the split to work on.
    num_shards: The number of parts, each for a run of its own.
    fallback_init_rng: Seed of parameters that come from initialisers, such as
      a prompt that is read from a file.
    summarize_config_fn: Writes the configuration, if there is one to write.
    configuration: What all of this is: a folder has predictions of one.
    on_event: Called after every chunk of a task; a step is an example.
    should_stop: Asked after every chunk.

  Returns:
    Which files it wrote.

  Raises:
    ValueError: for a wrong configuration, or a folder with predictions of
      another model or of other settings.
    run_lock.LockLostError: if the folder may be another inference's by now.
  """
  _check(mode, dataset_cfg, checkpoint_period, shard_id, num_shards)
  run_configuration.check_same_everywhere(configuration, output_dir)
  records.make_folder(output_dir, "INFER_OUTPUT_DIR", "infer")
  rng = None if fallback_init_rng is None else jax.random.key(fallback_init_rng)
  chunk_size = checkpoint_period * dataset_cfg.batch_size
  files = _Files(
    output_dir, mode, shard_id, num_shards, chunk_size, configuration
  )
  # Parts of a split may be worked on side by side.
  part = f"{mode}-{shard_id:05}-of-{num_shards:05}"
  with run_lock.RunLock(output_dir, "INFER_OUTPUT_DIR", part) as lock:
    if num_shards == 1:  # Else, another part may run.
      records.note_killed(output_dir)
    predictor = _Predictor(
      mode, model, dataset_cfg, restore_checkpoint_cfg, partitioner, rng
    )
    record = files.open(predictor, lock)
    if summarize_config_fn is not None:
      summarize_config_fn(output_dir, None, int(predictor.state.step))
    return files.write(predictor, record, lock.check, on_event, should_stop)


def _check(
  mode: str,
  dataset_cfg: utils.DatasetConfig,
  checkpoint_period: int,
  shard_id: int,
  num_shards: int,
) -> None:
  """Raises ValueError for arguments of `infer` that make no sense."""
  if mode not in MODES:
    raise ValueError(f"Expected MODE to be one of {MODES}, got {mode!r}.")
  if dataset_cfg.task_feature_lengths is None:
    raise ValueError("Inference needs TASK_FEATURE_LENGTHS.")
  if checkpoint_period < 1:
    raise ValueError(
      f"Expected checkpoint_period of at least 1, got {checkpoint_period}."
    )
  if not 0 <= shard_id < num_shards:
    raise ValueError(
      f"Expected 0 <= shard_id < num_shards={num_shards}, got {shard_id}."
    )


class _Predictor:
  """A model with its weights, and what it says of examples."""

  def __init__(
    self,
    mode: str,
    model: models.EncoderDecoderModel,
    dataset_cfg: utils.DatasetConfig,
    restore_checkpoint_cfg: utils.RestoreCheckpointConfig,
    partitioner: partitioning.PjitPartitioner,
    rng: jax.Array | None,
  ):
    """Reads the weights; see `infer`."""
    dataset_cfg = task_binding.for_model(dataset_cfg, model)
    utils.verify_matching_vocabs(dataset_cfg, model)
    lengths = dataset_cfg.task_feature_lengths
    assert lengths is not None, "infer has looked"
    self.cfg = dataset_cfg
    self._mode = mode
    self._lengths = lengths
    self._vocabulary = model.output_vocabulary
    self._converter = model.feature_converter_cls(pack=False)
    feature_lengths = self._converter.get_model_feature_lengths(lengths)
    initializer = initialization.TrainStateInitializer(
      None,
      model.get_initial_variables,
      {
        name: (dataset_cfg.batch_size, length)
        for name, length in feature_lengths.items()
      },
      partitioner,
    )
    self.state, self.base = initializer.from_base_model(
      restore_checkpoint_cfg, rng
    )
    self._infer_fn = utils.get_infer_fn(
      {
        "predict": model.predict_batch,
        "predict_with_aux": model.predict_batch_with_aux,
        "score": model.score_batch,
      }[mode],
      dataset_cfg.batch_size,
      initializer.train_state_axes,
      partitioner,
    )

  def dataset(self, task: seqio.Task, shard: seqio.ShardInfo) -> Any:
    """Returns a part of a task's split, as `tf.data`."""
    return task.get_dataset(
      sequence_length=self._lengths,
      split=self.cfg.split,
      use_cached=self.cfg.use_cached,
      shuffle=False,
      shard_info=shard,
      num_epochs=1,
    )

  def lines(self, dataset: tf.data.Dataset, first: int) -> Iterator[str]:
    """Makes the line of each example, of which the first has that number."""
    examples = dataset.as_numpy_iterator()
    model_dataset = self._converter(dataset, self._lengths).enumerate(first)
    for example, (_, output) in zip(
      examples, self._infer_fn(model_dataset, self.state), strict=True
    ):
      inputs = {
        k: _to_json(v) for k, v in example.items() if k not in self._lengths
      }
      yield json.dumps({"inputs": inputs, **self._result(output)}) + "\n"

  def _result(self, output: Any) -> dict[str, Any]:
    if self._mode == "score":
      return {"score": float(output)}
    tokens, *aux = output if self._mode == "predict_with_aux" else (output,)
    text = self._vocabulary.decode(tokens.tolist())
    return {"prediction": text} | ({"aux": _to_json(aux[0])} if aux else {})


@dataclasses.dataclass(frozen=True)
class _Files:
  """The files of a split, or of a part of it.

  Attributes:
    folder: Where they lie.
    mode: See `infer`.
    shard_id: The part of the split.
    num_shards: The number of parts.
    chunk_size: Examples that are written together.
    configuration: Of the predictions, if the caller says.
  """

  folder: str
  mode: str
  shard_id: int
  num_shards: int
  chunk_size: int
  configuration: run_configuration.RunConfiguration | None

  def open(
    self, predictor: _Predictor, lock: run_lock.RunLock
  ) -> records.RunRecord:
    """Makes the record, unless the folder has predictions of something else."""
    record = records.RunRecord(
      self.folder,
      "infer",
      lock=lock,
      base=records.base_facts(predictor.base),
      data={
        "split": predictor.cfg.split,
        "mode": self.mode,
        "model": checkpoints.fingerprint(predictor.state.params),
        "cut": truncation.count_cuts(
          predictor.cfg, only="inputs" if self.mode == "predict" else None
        ),
      },
      configuration=self.configuration and self.configuration.to_json(),
    )
    _refuse_other_predictions(self.folder, record)
    return record

  def write(
    self,
    predictor: _Predictor,
    record: records.RunRecord,
    check_lock: Callable[[], None],
    on_event: events.OnEvent,
    should_stop: events.ShouldStop,
  ) -> InferenceOutcome:
    """Writes what is missing."""
    cuts = record.fields["data"]["cut"]
    shard = seqio.ShardInfo(index=self.shard_id, num_shards=self.num_shards)
    written = {}

    def lines(dataset: tf.data.Dataset, first: int) -> list[str]:
      made = list(predictor.lines(dataset, first))
      check_lock()
      return made

    with record:
      for task in seqio.get_subtasks(predictor.cfg.task_or_mixture()):
        if predictor.cfg.split not in (task.splits or ()):
          continue  # Another of the mixture has it.
        path = os.path.join(
          self.folder,
          f"{task.name}-{self.mode}.jsonl"
          f"-{self.shard_id:05}-of-{self.num_shards:05}",
        )
        dataset = predictor.dataset(task, shard)
        total = int(dataset.reduce(np.int64(0), lambda n, _: n + 1))

        def begin(done: int, total=total, task=task) -> events.Progress:
          progress = events.Progress(total, on_event, should_stop, done)
          progress.notice(truncation.describe(cuts, predictor.cfg, task.name))
          return progress

        try:
          _write_in_chunks(path, dataset, total, self.chunk_size, lines, begin)
        except events.CancelledError:
          record.write(status="interrupted")
          return InferenceOutcome("interrupted", written)
        written[path] = total
      record.write(status="finished")
    return InferenceOutcome("finished", written)


def _refuse_other_predictions(
  output_dir: str, record: records.RunRecord
) -> None:
  """Goes on with predictions of this model and these settings only."""
  before = records.read(output_dir)
  if not any(epath.Path(output_dir).glob("*.jsonl-*")):
    return
  if before is None:
    raise ValueError(
      f"INFER_OUTPUT_DIR={output_dir!r} has predictions, and no record that "
      "says of which model. Choose another folder."
    )

  def identity(fields: Mapping[str, Any]) -> tuple[str | None, str | None]:
    # Which part of a split it is of is no setting: they may lie in one folder.
    configuration = fields.get("configuration") or {}
    return configuration.get("hash"), fields["data"].get("model")

  if identity(before) != identity(record.fields):
    raise ValueError(
      f"INFER_OUTPUT_DIR={output_dir!r} has predictions of another model or of "
      "other settings. Choose another folder."
    )


def _write_in_chunks(
  path: str,
  dataset: tf.data.Dataset,
  total: int,
  chunk_size: int,
  lines: Callable[[tf.data.Dataset, int], list[str]],
  begin: Callable[[int], events.Progress],
) -> None:
  """Writes a file line by line, and goes on with one that was cut off."""
  if multihost.of_first_process(epath.Path(path).exists()):
    begin(total)
    return
  file = None
  if jax.process_index() == 0:
    file = partial_file.PartialFile(path)
  is_whole = False
  try:
    first = multihost.of_first_process(file and file.num_lines)
    progress = begin(first)
    for start in range(first, total, chunk_size):
      chunk = lines(dataset.skip(start).take(chunk_size), start)
      if file is not None:
        file.write(chunk)
      progress.advance(len(chunk))
    is_whole = True
  finally:
    if file is not None:
      file.close(is_whole)
