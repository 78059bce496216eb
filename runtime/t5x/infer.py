"""Writes predictions: `python -m t5x.infer --gin_file=... --gin.X=...`."""

from collections.abc import Callable, Iterator, Mapping
import glob
import json
import os
import re
import sys
from typing import Any

import jax
import numpy as np
import seqio
import tensorflow as tf
import tqdm

from t5x import (
  checkpoints,
  gin_utils,
  initialization,
  models,
  multihost,
  partitioning,
  records,
  truncation,
  utils,
)

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
  summarize_config_fn: Callable[..., None] = gin_utils.summarize_gin_config,
) -> None:
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
    summarize_config_fn: Writes the configuration.

  Raises:
    ValueError: for a wrong configuration, or a folder with predictions of
      another model or of other settings.
  """
  if mode not in MODES:
    raise ValueError(f"Expected MODE to be one of {MODES}, got {mode!r}.")
  lengths = dataset_cfg.task_feature_lengths
  if lengths is None:
    raise ValueError("Inference needs TASK_FEATURE_LENGTHS.")
  records.make_folder(output_dir, "INFER_OUTPUT_DIR", "infer")
  utils.verify_matching_vocabs(dataset_cfg, model)
  converter = model.feature_converter_cls(pack=False)
  initializer = initialization.TrainStateInitializer(
    None,
    model.get_initial_variables,
    {
      name: (dataset_cfg.batch_size, length)
      for name, length in converter.get_model_feature_lengths(lengths).items()
    },
    partitioner,
  )
  state, base = initializer.from_base_model(
    restore_checkpoint_cfg,
    None if fallback_init_rng is None else jax.random.key(fallback_init_rng),
  )
  summarize_config_fn(output_dir, None, int(state.step))
  infer_fn = utils.get_infer_fn(
    {
      "predict": model.predict_batch,
      "predict_with_aux": model.predict_batch_with_aux,
      "score": model.score_batch,
    }[mode],
    dataset_cfg.batch_size,
    initializer.train_state_axes,
    partitioner,
  )

  def result(output: Any) -> dict[str, Any]:
    if mode == "score":
      return {"score": float(output)}
    tokens, *aux = output if mode == "predict_with_aux" else (output,)
    text = model.output_vocabulary.decode(tokens.tolist())
    return {"prediction": text} | ({"aux": _to_json(aux[0])} if aux else {})

  def lines(dataset: tf.data.Dataset, first: int) -> Iterator[str]:
    examples = dataset.as_numpy_iterator()
    model_dataset = converter(dataset, lengths).enumerate(first)
    for example, (_, output) in zip(
      examples, infer_fn(model_dataset, state), strict=True
    ):
      inputs = {k: _to_json(v) for k, v in example.items() if k not in lengths}
      yield json.dumps({"inputs": inputs, **result(output)}) + "\n"

  chunk_size = checkpoint_period * dataset_cfg.batch_size
  record = records.RunRecord(
    output_dir,
    "infer",
    base=records.base_facts(base),
    data={
      "split": dataset_cfg.split,
      "mode": mode,
      "model": checkpoints.fingerprint(state.params),
      "cut": truncation.report_cuts(dataset_cfg),
    },
  )
  _refuse_other_predictions(output_dir, record)
  with record:
    for task in seqio.get_subtasks(dataset_cfg.task_or_mixture()):
      path = os.path.join(
        output_dir,
        f"{task.name}-{mode}.jsonl-{shard_id:05}-of-{num_shards:05}",
      )
      dataset = task.get_dataset(
        sequence_length=lengths,
        split=dataset_cfg.split,
        use_cached=dataset_cfg.use_cached,
        shuffle=False,
        shard_info=seqio.ShardInfo(index=shard_id, num_shards=num_shards),
        num_epochs=1,
      )
      total = int(dataset.reduce(np.int64(0), lambda n, _: n + 1))
      _write_in_chunks(path, dataset, total, chunk_size, lines)
      print(f"{total} examples in {path}", file=sys.stderr)
    record.write(status="finished")


def _refuse_other_predictions(
  output_dir: str, record: records.RunRecord
) -> None:
  """Goes on with predictions of this model and these settings only."""
  before = records.read(output_dir)
  if before is None or not glob.glob(f"{glob.escape(output_dir)}/*.jsonl-*"):
    return

  def identity(fields: Mapping[str, Any]) -> tuple[str, str | None]:
    # Parts of a split may lie in one folder.
    gin_text = re.sub(r"(?m)^ *shard_id = .*$", "", fields["gin"])
    return gin_text, fields["data"].get("model")

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
  lines: Callable[[tf.data.Dataset, int], Iterator[str]],
) -> None:
  """Writes a file line by line, and goes on with one that was cut off."""
  partial = f"{path}.partial"
  first_process = jax.process_index() == 0
  done: list[str] = []
  if first_process and os.path.exists(partial):
    with open(partial, encoding="utf-8") as f:
      done = [line for line in f if line.endswith("\n")]
    # Whole chunks only: of the last one, lines may be missing.
    done = done[: len(done) // chunk_size * chunk_size]
  is_whole, first = multihost.of_first_process(
    [os.path.exists(path), len(done)]
  )
  if is_whole:
    return
  with (
    open(partial if first_process else os.devnull, "w", encoding="utf-8") as f,
    tqdm.tqdm(
      total=total, initial=first, unit="example", disable=not first_process
    ) as progress,
  ):
    f.writelines(done)
    for start in range(first, total, chunk_size):
      chunk = list(lines(dataset.skip(start).take(chunk_size), start))
      f.writelines(chunk)
      f.flush()
      progress.update(len(chunk))
  if first_process:
    os.replace(partial, path)


if __name__ == "__main__":
  gin_utils.run_entry_point(infer)
