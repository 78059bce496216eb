"""The examples of a training run."""

from collections.abc import Callable, Mapping, Sequence
import dataclasses
import os
from typing import Any

import seqio
import tensorflow as tf

from t5x import models, partitioning, utils
from t5x.input import task_binding, truncation
from t5x.runs import evaluation


@dataclasses.dataclass(frozen=True)
class RunData:
  """The examples of a training run.

  Attributes:
    task: Name of the task or mixture that is trained on.
    batches: Of training; each process has its part.
    train_evals: Task -> batches to compute the loss on.
    evaluator: Decodes and computes metrics, if there is something to evaluate.
    facts: For the record.
    notices: What the user should know of them.
  """

  task: str
  batches: tf.data.Dataset
  train_evals: Mapping[str, tf.data.Dataset]
  evaluator: evaluation.InferenceEvaluator | None
  facts: dict[str, Any]
  notices: Sequence[str]

  @property
  def batch_shapes(self) -> dict[str, tuple[int, ...]]:
    """Feature -> shape in the global batch."""
    return {
      name: (self.facts["batch_size"], *spec.shape[1:])
      for name, spec in self.batches.element_spec.items()
    }

  def close(self) -> None:
    """Ends the evaluator's threads."""
    if self.evaluator is not None:
      self.evaluator.close()


def read(
  model: models.EncoderDecoderModel,
  partitioner: partitioning.PjitPartitioner,
  train_cfg: utils.DatasetConfig,
  train_eval_cfg: utils.DatasetConfig | None,
  infer_eval_cfg: utils.DatasetConfig | None,
  eval_steps: int,
  inference_evaluator_cls: Callable[..., seqio.Evaluator],
  model_dir: str,
) -> RunData:
  """Opens the splits of a run, and reads those that are decoded.

  Args:
    model: The model.
    partitioner: Says which part of a batch is this process's.
    train_cfg: What to train on.
    train_eval_cfg: Where to compute the loss without dropout, or None.
    infer_eval_cfg: Where to decode and compute metrics, or None.
    eval_steps: Batches of each training evaluation.
    inference_evaluator_cls: `seqio.Evaluator`.
    model_dir: The run's folder.

  Raises:
    ValueError: if a split is unknown, empty or of another vocabulary.
  """
  train_cfg = task_binding.for_model(train_cfg, model)
  utils.verify_matching_vocabs(train_cfg, model)

  def rows(cfg: utils.DatasetConfig) -> Sequence[int]:
    return partitioner.get_data_layout(cfg.batch_size).rows

  if infer_eval_cfg is not None:
    rows(infer_eval_cfg)  # Or raises, before anything is read.
  batches = utils.get_dataset(
    train_cfg, rows(train_cfg), model.feature_converter_cls
  )
  train_evals = {}
  if train_eval_cfg is not None:
    train_eval_cfg = task_binding.for_model(train_eval_cfg, model)
    utils.verify_matching_vocabs(train_eval_cfg, model)
    train_evals = utils.get_training_eval_datasets(
      train_eval_cfg,
      rows(train_eval_cfg),
      eval_steps,
      model.feature_converter_cls,
    )
  evaluator = None
  if infer_eval_cfg is not None:
    evaluator = evaluation.InferenceEvaluator(
      infer_eval_cfg,
      inference_evaluator_cls,
      model,
      partitioner,
      os.path.join(model_dir, "inference_eval"),
    )
  cuts, notices = _cuts(
    model,
    {"training": train_cfg, "loss": train_eval_cfg, "scores": infer_eval_cfg},
  )
  facts = {
    "train": train_cfg.name,
    "train_split": train_cfg.split,
    "train_examples": train_cfg.num_input_examples(),
    "shuffle_seed": train_cfg.seed,
    "eval_split": infer_eval_cfg and infer_eval_cfg.split,
    "eval_examples": evaluator and evaluator.counts,
    "batch_size": train_cfg.batch_size,
    "lengths": dict(train_cfg.task_feature_lengths or {}),
    "cut": cuts,
  }
  return RunData(
    train_cfg.name, batches, train_evals, evaluator, facts, notices
  )


def _cuts(
  model: models.EncoderDecoderModel,
  by_purpose: Mapping[str, utils.DatasetConfig | None],
) -> tuple[dict[str, truncation.Cuts], list[str]]:
  """What is lost where it is cut to the lengths, for each use, and in words."""
  cuts, notices = {}, []
  for purpose, cfg in by_purpose.items():
    if cfg is not None:
      cfg = task_binding.for_model(cfg, model)
      cuts[purpose] = truncation.count_cuts(cfg)
      notices += (
        f"For the {purpose}: {notice}"
        for notice in truncation.describe(cuts[purpose], cfg)
      )
  return cuts, notices
