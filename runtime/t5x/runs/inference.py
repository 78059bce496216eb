"""Inference as a function: `python -m t5x.infer` is a command line for it."""

from collections.abc import Callable, Iterable, Iterator, Mapping
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
from t5x.configuration import identity
from t5x.files import partial_file, run_lock
from t5x.input import datasets, task_binding, truncation
from t5x.runs import events, initialization, records, resume

MODES = ("predict", "predict_with_aux", "score")


def _to_json(value: Any) -> Any:
  """Converts a value of an example, or of a model's output, to JSON."""
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
  """The end of an inference.

  Attributes:
    status: "finished", or "interrupted" because the caller stopped it: the
      next call resumes it.
    examples: Path of each whole file -> its number of examples.
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
  configuration: identity.RunConfiguration | None = None,
  on_event: events.OnEvent = events.ignore,
  should_stop: events.ShouldStop = events.never,
) -> InferenceOutcome:
  """Runs a model on every example of a split.

  Each task gets a file `<task>-<mode>.jsonl-<shard>-of-<shards>`, a line an
  example in the order of the split: `inputs`, the example without its tokens,
  and `prediction`, with `aux`, or `score` (log likelihood of the targets, in
  nats). It is written in chunks; an interrupted run resumes after the
  last, and leaves whole files alone.

  Args:
    mode: "predict", "predict_with_aux" or "score".
    model: The model.
    dataset_cfg: The examples.
    restore_checkpoint_cfg: The weights.
    partitioner: Places parameters and batches on the devices.
    output_dir: For the files.
    checkpoint_period: Batches of a chunk.
    shard_id: The part of the split to work on.
    num_shards: The number of parts, each for a separate run.
    fallback_init_rng: Seed of parameters that come from initialisers, such as
      a prompt that is read from a file.
    summarize_config_fn: Writes the configuration, if there is one to write.
    configuration: The settings; a folder has predictions of one.
    on_event: Called after every chunk of a task; a step is an example.
    should_stop: Asked after every chunk.

  Returns:
    The files that it wrote.

  Raises:
    ValueError: for a wrong configuration, or a folder with predictions of
      another model or of other settings.
    run_lock.LockLostError: if the folder may be another inference's by now.
  """
  _check(mode, checkpoint_period, shard_id, num_shards)
  # Runs of other parts may write to the folder at the same time.
  part = f"{mode}-{shard_id:05}-of-{num_shards:05}"
  with resume.locked_folder(
    output_dir, "INFER_OUTPUT_DIR", "infer", configuration, part
  ) as lock:
    if num_shards == 1:  # Else, another part may run.
      records.note_killed(output_dir)
    predictor = _Predictor(
      mode,
      model,
      task_binding.for_model(dataset_cfg, model),
      restore_checkpoint_cfg,
      partitioner,
      fallback_init_rng,
    )
    files = _Files(
      output_dir, predictor, shard_id, num_shards, checkpoint_period
    )
    record = files.open_record(lock, configuration)
    if summarize_config_fn is not None:
      step = int(predictor.restored.state.step)
      summarize_config_fn(output_dir, None, step)
    return files.write(record, lock.check, on_event, should_stop)


def _check(
  mode: str,
  checkpoint_period: int,
  shard_id: int,
  num_shards: int,
) -> None:
  """Raises ValueError for arguments of `infer` that make no sense."""
  if mode not in MODES:
    raise ValueError(f"Expected MODE to be one of {MODES}, got {mode!r}.")
  if checkpoint_period < 1:
    raise ValueError(
      f"Expected checkpoint_period of at least 1, got {checkpoint_period}."
    )
  if not 0 <= shard_id < num_shards:
    raise ValueError(
      f"Expected 0 <= shard_id < num_shards={num_shards}, got {shard_id}."
    )


class _Predictor:
  """A model with its weights, which answers examples.

  Attributes:
    mode: See `infer`.
    cfg: The examples, in the model's tokens.
    restored: The weights.
  """

  def __init__(
    self,
    mode: str,
    model: models.EncoderDecoderModel,
    cfg: utils.DatasetConfig,
    restore_cfg: utils.RestoreCheckpointConfig,
    partitioner: partitioning.PjitPartitioner,
    seed: int | None,
  ):
    """Reads the weights; see `infer`."""
    self.mode = mode
    self.cfg = cfg
    self._vocabulary = model.output_vocabulary
    self._converter = model.feature_converter_cls(pack=False)
    self.restored = initialization.restore_for_inference(
      model,
      datasets.batch_shapes(cfg, model.feature_converter_cls),
      restore_cfg,
      partitioner,
      seed,
    )
    self._lengths = dict(cfg.task_feature_lengths or {})
    self._infer_fn = utils.get_infer_fn(
      {
        "predict": model.predict_batch,
        "predict_with_aux": model.predict_batch_with_aux,
        "score": model.score_batch,
      }[mode],
      cfg.batch_size,
      self.restored.axes,
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
      examples, self._infer_fn(model_dataset, self.restored.state), strict=True
    ):
      inputs = {
        k: _to_json(v) for k, v in example.items() if k not in self._lengths
      }
      yield json.dumps({"inputs": inputs, **self._result(output)}) + "\n"

  def _result(self, output: Any) -> dict[str, Any]:
    if self.mode == "score":
      return {"score": float(output)}
    tokens, *aux = output if self.mode == "predict_with_aux" else (output,)
    text = self._vocabulary.decode(tokens.tolist())
    return {"prediction": text} | ({"aux": _to_json(aux[0])} if aux else {})


@dataclasses.dataclass(frozen=True)
class _Files:
  """The files of a split, or of a part of it.

  Attributes:
    folder: Their folder.
    predictor: Makes their lines.
    shard_id: The part of the split.
    num_shards: The number of parts.
    checkpoint_period: Batches that are written together.
  """

  folder: str
  predictor: _Predictor
  shard_id: int
  num_shards: int
  checkpoint_period: int

  def open_record(
    self,
    lock: run_lock.RunLock,
    configuration: identity.RunConfiguration | None,
  ) -> records.RunRecord:
    """Makes the record, unless the folder has predictions of something else."""
    mode, restored = self.predictor.mode, self.predictor.restored
    record = records.RunRecord(
      self.folder,
      "infer",
      lock=lock,
      base=records.base_facts(restored.base),
      data={
        "split": self.predictor.cfg.split,
        "mode": mode,
        "model": checkpoints.fingerprint(restored.state.params),
        "cut": truncation.count_cuts(
          self.predictor.cfg, only="inputs" if mode == "predict" else None
        ),
      },
      configuration=configuration and configuration.to_json(),
    )
    _refuse_other_predictions(self.folder, record)
    return record

  def write(
    self,
    record: records.RunRecord,
    check_lock: Callable[[], None],
    on_event: events.OnEvent,
    should_stop: events.ShouldStop,
  ) -> InferenceOutcome:
    """Writes the examples that are missing."""
    cfg, cuts = self.predictor.cfg, record.fields["data"]["cut"]
    shard = seqio.ShardInfo(index=self.shard_id, num_shards=self.num_shards)
    written = {}
    with record:
      for task in seqio.get_subtasks(cfg.task_or_mixture()):
        if cfg.split not in (task.splits or ()):
          continue  # Another task of the mixture has it.
        path = os.path.join(
          self.folder,
          f"{task.name}-{self.predictor.mode}.jsonl"
          f"-{self.shard_id:05}-of-{self.num_shards:05}",
        )
        dataset = self.predictor.dataset(task, shard)
        total = int(dataset.reduce(np.int64(0), lambda n, _: n + 1))
        progress = events.Progress(total, on_event, should_stop)
        notices = truncation.describe(cuts, cfg, task.name)
        try:
          self._write_in_chunks(path, dataset, progress, notices, check_lock)
        except events.CancelledError:
          record.write(status="interrupted")
          return InferenceOutcome("interrupted", written)
        written[path] = total
      record.write(status="finished")
    return InferenceOutcome("finished", written)

  def _write_in_chunks(
    self,
    path: str,
    dataset: tf.data.Dataset,
    progress: events.Progress,
    notices: Iterable[str],
    check_lock: Callable[[], None],
  ) -> None:
    """Writes a file line by line, or the rest of one that was cut off."""
    if multihost.from_first_process(epath.Path(path).exists()):
      progress.begin(notices, done=progress.total)
      return
    file = partial_file.PartialFile(path) if jax.process_index() == 0 else None
    chunk_size = self.checkpoint_period * self.predictor.cfg.batch_size
    is_whole = False
    try:
      first = multihost.from_first_process(file and file.num_lines)
      progress.begin(notices, done=first)
      for start in range(first, progress.total, chunk_size):
        chunk = list(
          self.predictor.lines(dataset.skip(start).take(chunk_size), start)
        )
        check_lock()
        if file is not None:
          file.write(chunk)
        progress.advance(len(chunk))
      is_whole = True
    finally:
      if file is not None:
        file.close(is_whole)


def _refuse_other_predictions(
  output_dir: str, record: records.RunRecord
) -> None:
  """Refuses a folder with predictions of another model or settings."""
  before = records.read(output_dir)
  if not any(epath.Path(output_dir).glob("*.jsonl-*")):
    return
  if before is None:
    raise ValueError(
      f"INFER_OUTPUT_DIR={output_dir!r} has predictions, and no record that "
      "says of which model. Choose another folder."
    )

  def identity(fields: Mapping[str, Any]) -> tuple[str | None, str | None]:
    # Parts of one split share a folder, so the part is not compared.
    configuration = fields.get("configuration") or {}
    return configuration.get("hash"), fields["data"].get("model")

  if identity(before) != identity(record.fields):
    raise ValueError(
      f"INFER_OUTPUT_DIR={output_dir!r} has predictions of another model or of "
      "other settings. Choose another folder."
    )
