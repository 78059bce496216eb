"""Evaluation as a function: `python -m t5x.eval` is a command line for it."""

from collections.abc import Callable, Mapping
import contextlib
from typing import Any

import jax
import seqio

from t5x import gin_utils, models, multihost, partitioning, utils
from t5x.configuration import identity
from t5x.files import storage
from t5x.input import task_binding, truncation
from t5x.runs import (
  events,
  initialization,
  metric_lines,
  records,
  resume,
)
from t5x.train_state import TrainState


class InferenceEvaluator:
  """Decodes a split and computes the metrics of its tasks."""

  def __init__(
    self,
    infer_eval_dataset_cfg: utils.DatasetConfig,
    inference_evaluator_cls: Callable[..., seqio.Evaluator],
    model: models.EncoderDecoderModel,
    partitioner: partitioning.PjitPartitioner,
    log_dir: str | None = None,
  ):
    """Reads and caches the split.

    Args:
      infer_eval_dataset_cfg: The examples, in the model's tokens; see
        `task_binding.for_model`.
      inference_evaluator_cls: `seqio.Evaluator`, its loggers bound by gin.
      model: The model.
      partitioner: Places batches on the devices.
      log_dir: A folder for predictions.

    Raises:
      ValueError: if the split is empty.
    """
    cfg = infer_eval_dataset_cfg
    self._model = model
    self._partitioner = partitioner
    self._batch_size = cfg.batch_size
    self._upload = storage.UploadFolder(log_dir) if log_dir else None
    with task_binding.registered(cfg.task_or_mixture()) as name:
      self._evaluator = inference_evaluator_cls(
        mixture_or_task_name=name,
        feature_converter=model.feature_converter_cls(
          pack=False, apply_length_check=False
        ),
        eval_split=cfg.split,
        use_cached=cfg.use_cached,
        seed=cfg.seed,
        sequence_length=cfg.task_feature_lengths,
        log_dir=self._upload and self._upload.path,
        use_memory_cache=cfg.use_memory_cache,
      )
    self.counts: dict[str, int] = {
      task.name: sum(1 for _ in self._evaluator.cached_task_datasets[task.name])
      for task in self._evaluator.eval_tasks
    }
    if not self.counts:
      raise ValueError(
        f"No task of {cfg.name} has metric_fns and the split {cfg.split!r}: "
        "give its task some, or train with infer_eval_dataset_cfg = None."
      )
    if not all(self.counts.values()):
      raise ValueError(
        f"The split {cfg.split!r} of {cfg.name} has no example "
        f"to evaluate: {self.counts}."
      )

  @property
  def model_feature_shapes(self) -> Mapping[str, tuple[int, ...]]:
    """Shapes of a batch."""
    return {
      name: (self._batch_size, *shape)
      for name, shape in self._evaluator.model_feature_shapes.items()
    }

  def close(self) -> None:
    """Ends the evaluator's threads."""
    if self._evaluator._metrics_executor:
      self._evaluator._metrics_executor.shutdown()
    if self._upload is not None:
      self._upload.close()

  def evaluate(
    self,
    train_state: TrainState,
    train_state_axes: TrainState,
    after_batch: Callable[[int], None] | None = None,
  ) -> dict[str, dict[str, float]]:
    """Evaluates a state.

    Args:
      train_state: The state.
      train_state_axes: Its shardings.
      after_batch: Called with the number of examples of each batch; an
        exception ends the evaluation.

    Returns:
      Task -> metric -> value.
    """
    infer = self._infer_fns(train_state_axes)

    def predict(dataset, model_feature_shapes=None):
      del model_feature_shapes
      outputs = infer["predict"](dataset, train_state, after_batch)
      return [(index, tokens.tolist()) for index, tokens in outputs]

    def score(dataset, model_feature_shapes=None):
      del model_feature_shapes
      outputs = infer["score"](dataset, train_state, after_batch)
      return [(index, float(score)) for index, score in outputs]

    metrics, _ = self._evaluator.evaluate(
      compute_metrics=jax.process_index() == 0,
      step=int(train_state.step),
      predict_fn=predict,
      score_fn=score,
    )
    computed = metrics.result() or {}
    if self._upload is not None and jax.process_index() == 0:
      self._upload.send()
    return multihost.from_first_process(
      {task: _scalars(values) for task, values in computed.items()}
    )

  def _infer_fns(self, train_state_axes: TrainState) -> dict[str, Any]:
    if not hasattr(self, "_compiled"):
      self._compiled = {
        name: utils.get_infer_fn(
          fn, self._batch_size, train_state_axes, self._partitioner
        )
        for name, fn in (
          ("predict", self._model.predict_batch),
          ("score", self._model.score_batch),
        )
      }
    return self._compiled


def _scalars(values: Mapping[str, Any]) -> dict[str, float]:
  """Keeps the numbers; texts and histograms are for seqio's loggers."""
  numbers = {
    name: x.value if isinstance(x, seqio.metrics.Scalar) else x
    for name, x in values.items()
    if not isinstance(x, seqio.metrics.MetricValue)
    or isinstance(x, seqio.metrics.Scalar)
  }
  return {name: float(x) for name, x in numbers.items()}


def evaluate(
  *,
  model: models.EncoderDecoderModel,
  dataset_cfg: utils.DatasetConfig,
  restore_checkpoint_cfg: utils.RestoreCheckpointConfig,
  partitioner: partitioning.PjitPartitioner,
  output_dir: str,
  inference_evaluator_cls: Callable[..., seqio.Evaluator] = seqio.Evaluator,
  summarize_config_fn: Callable[..., None]
  | None = gin_utils.summarize_gin_config,
  fallback_init_rng: int | None = None,
  configuration: identity.RunConfiguration | None = None,
  on_event: events.OnEvent = events.ignore,
  should_stop: events.ShouldStop = events.never,
) -> dict[str, dict[str, float]]:
  """Evaluates a checkpoint, and a prompt with it, on a split.

  Args:
    model: The model.
    dataset_cfg: Which examples.
    restore_checkpoint_cfg: The weights.
    partitioner: Places parameters and batches on the devices.
    output_dir: For `record.json`, predictions and `config.gin`.
    inference_evaluator_cls: `seqio.Evaluator`.
    summarize_config_fn: Writes the configuration, if there is one to write.
    fallback_init_rng: Seed of parameters that come from initialisers, such as
      a prompt that is read from a file.
    configuration: The settings, for the record.
    on_event: Called after every batch; a step is an example.
    should_stop: Asked after every batch.

  Returns:
    Task -> metric -> value.

  Raises:
    ValueError: for a wrong configuration, or if another evaluation is writing
      to the folder.
    events.CancelledError: if `should_stop` said so.
    run_lock.LockLostError: if the folder may be another evaluation's by now.
  """
  with contextlib.ExitStack() as stack:
    lock = stack.enter_context(
      resume.locked_folder(output_dir, "EVAL_OUTPUT_DIR", "eval", configuration)
    )
    records.note_killed(output_dir)
    if jax.process_index() == 0 and records.read(output_dir):
      # seqio would add to the lines of an earlier evaluation.
      metric_lines.keep_evaluations(output_dir, ())
    initialization.check_base(restore_checkpoint_cfg)
    cfg = task_binding.for_model(dataset_cfg, model)
    evaluator = InferenceEvaluator(
      cfg, inference_evaluator_cls, model, partitioner, output_dir
    )
    stack.callback(evaluator.close)
    restored = initialization.restore_for_inference(
      model,
      evaluator.model_feature_shapes,
      restore_checkpoint_cfg,
      partitioner,
      fallback_init_rng,
    )
    progress = events.Progress(
      sum(evaluator.counts.values()), on_event, should_stop
    )
    cuts = truncation.count_cuts(cfg)
    progress.begin(truncation.describe(cuts, cfg))

    def after_batch(count: int) -> None:
      lock.check()  # After the last one predictions are written.
      progress.advance(count)

    with records.RunRecord(
      output_dir,
      "eval",
      lock=lock,
      base=records.base_facts(restored.base),
      data={"split": cfg.split, "examples": evaluator.counts, "cut": cuts},
      configuration=configuration and configuration.to_json(),
    ) as record:
      metrics = evaluator.evaluate(restored.state, restored.axes, after_batch)
      lock.check()
      step = int(restored.state.step)
      if summarize_config_fn is not None:
        summarize_config_fn(output_dir, None, step)
      record.write(
        evals=[{"step": step, "metrics": metrics}], status="finished"
      )
  return metrics
