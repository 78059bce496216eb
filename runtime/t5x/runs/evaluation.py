"""Evaluation as a function: `python -m t5x.eval` is a command line for it."""

from collections.abc import Callable, Mapping
import contextlib
import dataclasses
from typing import Any

import jax
import seqio

from t5x import checkpoints, models, multihost, partitioning, utils
from t5x.files import failures, storage
from t5x.input import datasets, pipelines, truncation
from t5x.runs import events, metric_log, records
from t5x.runs import plan as plan_lib
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
        `datasets.for_model`.
      inference_evaluator_cls: `seqio.Evaluator`, with loggers bound by gin.
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
    self._infer_fns: dict[str, Callable[..., Any]] = {}
    with datasets.registered(cfg.task_or_mixture()) as name:
      self._evaluator = pipelines.build(
        inference_evaluator_cls,
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
        f"No task of {cfg.name} has both metric_fns and the split "
        f"{cfg.split!r}: add them, or train with infer_eval_dataset_cfg = None."
      )
    if not all(self.counts.values()):
      raise ValueError(
        f"The split {cfg.split!r} of {cfg.name} has no example "
        f"to evaluate: {self.counts}."
      )

  @property
  def model_feature_shapes(self) -> Mapping[str, tuple[int, ...]]:
    """The shapes of a batch."""
    return {
      name: (self._batch_size, *shape)
      for name, shape in self._evaluator.model_feature_shapes.items()
    }

  def close(self) -> None:
    """Ends the evaluator's threads."""
    self._evaluator.close()
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
    if not self._infer_fns:
      self._infer_fns = {
        name: utils.get_infer_fn(
          step, self._batch_size, train_state_axes, self._partitioner
        )
        for name, step in (
          ("predict_fn", self._model.predict_batch),
          ("score_fn", self._model.score_batch),
        )
      }

    def bound(infer_fn: Any) -> Any:
      def answer(dataset, model_feature_shapes=None):
        del model_feature_shapes
        examples = dataset.as_numpy_iterator()
        outputs = infer_fn(examples, train_state, after_batch)
        return [(index, output.tolist()) for index, output in outputs]

      return answer

    with failures.explained(self._upload.path if self._upload else "."):
      metrics, _ = self._evaluator.evaluate(
        compute_metrics=jax.process_index() == 0,
        step=int(train_state.step),
        **{name: bound(fn) for name, fn in self._infer_fns.items()},
      )
      computed = metrics.result() or {}
    if self._upload is not None and jax.process_index() == 0:
      self._upload.send()
    # Texts and histograms are for seqio's loggers.
    scalars = {
      task: {
        name: float(x.value if isinstance(x, seqio.metrics.Scalar) else x)
        for name, x in values.items()
        if isinstance(x, seqio.metrics.Scalar)
        or not isinstance(x, seqio.metrics.MetricValue)
      }
      for task, values in computed.items()
    }
    return multihost.from_first_process(scalars)


@dataclasses.dataclass(frozen=True, kw_only=True)
class EvaluationPlan(plan_lib.FrozenPlan):
  """The arguments of `evaluate`.

  Attributes:
    inference_evaluator_cls: `seqio.Evaluator`.
  """

  inference_evaluator_cls: Callable[..., seqio.Evaluator] = seqio.Evaluator


@plan_lib.with_arguments_of(EvaluationPlan)
def evaluate(plan: EvaluationPlan) -> dict[str, dict[str, float]]:
  """Evaluates a checkpoint, perhaps with a prompt, on a split.

  Its arguments are those of `EvaluationPlan`.

  Returns:
    Task -> metric -> value.

  Raises:
    ValueError: for a wrong configuration, or if another evaluation is writing
      to the folder.
    events.CancelledError: if `should_stop` returned True.
    run_lock.LockLostError: if another evaluation may have taken the folder.
  """
  folder = plan.output_dir
  with contextlib.ExitStack() as stack:
    lock, before = stack.enter_context(
      records.locked_folder(
        folder, "EVAL_OUTPUT_DIR", "eval", plan.configuration
      )
    )
    if jax.process_index() == 0 and before:
      # Otherwise seqio would append to the lines of an earlier evaluation.
      metric_log.keep_evaluations(folder, ())
    if plan.restore_checkpoint_cfg.path is not None:  # Before data are read.
      checkpoints.find_checkpoint(plan.restore_checkpoint_cfg.path)
    cfg = datasets.for_model(plan.dataset_cfg, plan.model)
    evaluator = InferenceEvaluator(
      cfg, plan.inference_evaluator_cls, plan.model, plan.partitioner, folder
    )
    stack.callback(evaluator.close)
    state, axes, base = plan.restore(evaluator.model_feature_shapes)
    cuts = truncation.count_cuts(cfg)
    total = sum(evaluator.counts.values())
    progress = events.Progress(plan, total, truncation.describe(cuts, cfg))
    progress.begin()

    def after_batch(count: int) -> None:
      lock.check()  # Predictions are written after the last batch.
      progress.advance(count)

    with records.RunRecord(
      folder,
      "eval",
      lock,
      base,
      plan.configuration,
      data={"split": cfg.split, "examples": evaluator.counts, "cut": cuts},
    ) as record:
      metrics = evaluator.evaluate(state, axes, after_batch)
      lock.check()
      step = int(state.step)
      plan.summarize(step)
      record.write(
        evals=[{"step": step, "metrics": metrics}], status="finished"
      )
  return metrics
