"""Inference as a function: `python -m t5x.infer` is a command line for it."""

from collections.abc import Iterable, Iterator, Mapping
import dataclasses
import itertools
import json
import os
from typing import Any, Literal

from etils import epath
import jax
import numpy as np
from pydantic import NonNegativeInt, PositiveInt
import seqio
import tensorflow as tf

from t5x import checkpoints, multihost, utils
from t5x.configuration import arguments
from t5x.files import run_lock, safe_files
from t5x.input import datasets, pipelines, truncation
from t5x.runs import events, records
from t5x.runs import plan as plan_lib

# Mode -> the method of the model.
_METHODS = {
  "predict": "predict_batch",
  "predict_with_aux": "predict_batch_with_aux",
  "score": "score_batch",
}


def _to_json(value: Any) -> Any:
  """Converts text, or an array or number of numpy, to JSON."""
  return value.decode() if isinstance(value, bytes) else value.tolist()


@dataclasses.dataclass(frozen=True, kw_only=True)
class InferencePlan(plan_lib.FrozenPlan):
  """The arguments of `infer`, checked.

  Attributes:
    mode: "predict", "predict_with_aux" or "score".
    checkpoint_period: Number of batches in a chunk.
    shard_id: The part of the split to work on.
    num_shards: The number of parts, each for a separate run.
  """

  mode: Literal["predict", "predict_with_aux", "score"]
  checkpoint_period: PositiveInt
  shard_id: NonNegativeInt = 0
  num_shards: PositiveInt = 1

  def __post_init__(self):
    arguments.check(
      InferencePlan,
      {"mode": self.mode, "checkpoint_period": self.checkpoint_period},
    )
    if not 0 <= self.shard_id < self.num_shards:
      raise ValueError(
        f"Expected 0 <= shard_id < num_shards={self.num_shards}, got "
        f"{self.shard_id}."
      )

  @property
  def part(self) -> str:
    """The ending of the files' names."""
    return f"{self.shard_id:05}-of-{self.num_shards:05}"


@plan_lib.with_arguments_of(InferencePlan)
def infer(plan: InferencePlan) -> dict[str, int]:
  """Runs a model on every example of a split.

  Each task gets a file `<task>-<mode>.jsonl-<shard>-of-<shards>`, with one line
  per example in the order of the split: `inputs`, the example without its
  tokens, and `prediction`, with `aux`, or `score` (log likelihood of the
  targets, in nats). Files are written in chunks; an interrupted run resumes
  after the last one, and leaves whole files alone. The arguments are those of
  `InferencePlan`.

  Returns:
    Path of each file -> its number of examples.

  Raises:
    events.CancelledError: if `should_stop` returned True; the next call resumes
      the run.
    ValueError: for a wrong configuration, or a folder with predictions from
      another model or with other settings.
    run_lock.LockLostError: if another inference may have taken the folder.
  """
  with records.locked_folder(
    plan.output_dir,
    "INFER_OUTPUT_DIR",
    "infer",
    plan.configuration,
    # Runs for other parts may write to the folder at the same time.
    f"{plan.mode}-{plan.part}" if plan.num_shards > 1 else "run",
    is_shared=plan.num_shards > 1,
  ) as (lock, _):
    return _Predictor(plan).write_files(lock)


class _Predictor:
  """A model with its weights, which computes results for examples."""

  def __init__(self, plan: InferencePlan):
    """Reads the weights."""
    self._plan, model = plan, plan.model
    self._cfg = datasets.for_model(plan.dataset_cfg, model)
    self._converter = model.feature_converter_cls(pack=False)
    self._state, axes, self._base = plan.restore(
      datasets.batch_shapes(self._cfg, model.feature_converter_cls)
    )
    self._lengths = dict(self._cfg.task_feature_lengths or {})
    self._infer_fn = utils.get_infer_fn(
      getattr(model, _METHODS[plan.mode]),
      self._cfg.batch_size,
      axes,
      plan.partitioner,
    )

  def _make_record(self, lock: run_lock.RunLock) -> records.RunRecord:
    """Makes the record, unless the folder has predictions of another run."""
    folder, mode = self._plan.output_dir, self._plan.mode
    record = records.RunRecord(
      folder,
      "infer",
      lock,
      self._base,
      self._plan.configuration,
      data={
        "split": self._cfg.split,
        "mode": mode,
        "model": checkpoints.fingerprint(self._state.params),
        "cut": truncation.count_cuts(
          self._cfg, only="inputs" if mode == "predict" else None
        ),
      },
    )

    def identity(fields: Mapping[str, Any]) -> tuple[str | None, str | None]:
      # Parts of one split share a folder, so the part is not compared.
      configuration = fields.get("configuration") or {}
      return configuration.get("hash"), fields["data"].get("model")

    if any(epath.Path(folder).glob("*.jsonl-*")):
      # Read now, because a run for another part may have just written it.
      before, problem = records.read(folder), None
      if not before:
        problem = "and no record that names the model"
      elif identity(before) != identity(record.fields):
        problem = "from another model or with other settings"
      if problem:
        raise ValueError(
          f"INFER_OUTPUT_DIR={folder!r} has predictions {problem}. Choose "
          "another folder."
        )
    return record

  def write_files(self, lock: run_lock.RunLock) -> dict[str, int]:
    """Writes the missing examples; see `infer`."""
    plan, split = self._plan, self._cfg.split
    record = self._make_record(lock)
    plan.summarize(int(self._state.step))
    written = {}
    with record:
      for task in seqio.get_subtasks(self._cfg.task_or_mixture()):
        if split not in (task.splits or ()):
          continue  # Another task of the mixture has the split.
        name = f"{task.name}-{plan.mode}.jsonl-{plan.part}"
        path = os.path.join(plan.output_dir, name)
        dataset = pipelines.build(
          task.get_dataset,
          sequence_length=self._lengths,
          split=split,
          use_cached=self._cfg.use_cached,
          shuffle=False,
          shard_info=seqio.ShardInfo(plan.shard_id, plan.num_shards),
          num_epochs=1,
        )
        cuts = record.fields["data"]["cut"]
        progress = events.Progress(
          plan,
          int(dataset.reduce(np.int64(0), lambda n, _: n + 1)),
          truncation.describe(
            {k: x for k, x in cuts.items() if k == task.name}, self._cfg
          ),
        )
        self._write_file(path, dataset, progress, lock)
        written[path] = progress.total
      record.write(status="finished")
    return written

  def _write_file(
    self,
    path: str,
    dataset: tf.data.Dataset,
    progress: events.Progress,
    lock: run_lock.RunLock,
  ) -> None:
    """Writes a file in chunks, or the rest of an interrupted one."""
    if multihost.from_first_process(epath.Path(path).exists()):
      progress.begin(done=progress.total)
      return
    chunk_size = self._plan.checkpoint_period * self._cfg.batch_size
    file = safe_files.PartialFile(path) if jax.process_index() == 0 else None
    first = multihost.from_first_process(file and file.num_lines)
    progress.begin(done=first)
    # Each iterator reads the split once, whatever the number of chunks.
    left = dataset.skip(first)
    features = self._converter(left, self._lengths).enumerate(first)
    iterators = left.as_numpy_iterator(), features.as_numpy_iterator()
    for _ in range(first, progress.total, chunk_size):
      chunk = list(
        self._lines(*(itertools.islice(x, chunk_size) for x in iterators))
      )
      lock.check()
      if file is not None:
        file.write(chunk)
      progress.advance(len(chunk))
    if file is not None:
      file.finish()

  def _lines(
    self, examples: Iterable[Any], features: Iterable[Any]
  ) -> Iterator[str]:
    """Makes the line of each example, given its number and model features."""
    outputs = self._infer_fn(features, self._state)
    for example, (_, output) in zip(examples, outputs, strict=True):
      inputs = {k: v for k, v in example.items() if k not in self._lengths}
      line = {"inputs": inputs, **self._result(output)}
      yield json.dumps(line, default=_to_json) + "\n"

  def _result(self, output: Any) -> dict[str, Any]:
    mode = self._plan.mode
    if mode == "score":
      return {"score": float(output)}
    tokens, *aux = output if mode == "predict_with_aux" else (output,)
    text = self._plan.model.output_vocabulary.decode(tokens.tolist())
    return {"prediction": text} | ({"aux": aux[0]} if aux else {})
