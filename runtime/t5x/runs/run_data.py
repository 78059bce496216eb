"""The examples of a training run."""

from collections.abc import Callable, Mapping, Sequence
import dataclasses
import functools
import os
from typing import Any

import seqio
import tensorflow as tf

from t5x.input import datasets, truncation
from t5x.runs import evaluation
from t5x.runs.plan import Plan


@dataclasses.dataclass(frozen=True)
class RunData:
  """The examples of a training run.

  Attributes:
    batches: This process's part of the training batches.
    train_evals: Task -> batches on which to compute the loss.
    evaluator: Decodes a split and computes its metrics, if one is configured.
    facts: The field `data` of the record.
    notices: Sentences for the user.
  """

  batches: tf.data.Dataset
  train_evals: Mapping[str, tf.data.Dataset]
  evaluator: evaluation.InferenceEvaluator | None
  facts: dict[str, Any]
  notices: Sequence[str]


def bind(plan: Plan) -> dict[str, datasets.DatasetConfig]:
  """Returns a run's data sets in its model's tokens.

  Returns:
    "training", "loss" or "scores" -> configuration, if the plan has one.

  Raises:
    ValueError: if a split is unknown or has another vocabulary, or the mesh
      does not divide a batch.
  """
  cfgs = {
    "training": plan.train_dataset_cfg,
    "loss": plan.train_eval_dataset_cfg,
    "scores": plan.infer_eval_dataset_cfg,
  }
  bound = {
    purpose: datasets.for_model(cfg, plan.model)
    for purpose, cfg in cfgs.items()
    if cfg is not None
  }
  for cfg in bound.values():
    plan.partitioner.local_rows(cfg.batch_size)
  return bound


def read(
  plan: Plan,
  cfgs: Mapping[str, datasets.DatasetConfig],
  shuffle_seed: int,
  count_cuts: Callable[[], Mapping[str, truncation.Cuts]],
) -> RunData:
  """Opens the splits of a run, and reads those that are decoded.

  Args:
    plan: The plan of the run.
    cfgs: The result of `bind`.
    shuffle_seed: The seed of the order of the training examples.
    count_cuts: Returns the cuts of each of `cfgs`; see `truncation`.

  Raises:
    ValueError: if a split is empty, or the vocabulary knows too few of the
      inputs' pieces.
  """
  model, partitioner = plan.model, plan.partitioner
  train_cfg = dataclasses.replace(cfgs["training"], seed=shuffle_seed)
  loss_cfg, scored_cfg = cfgs.get("loss"), cfgs.get("scores")
  # This comes before anything is written.
  notices = list(truncation.check_known(train_cfg))
  batches = datasets.get_dataset(
    train_cfg,
    partitioner.local_rows(train_cfg.batch_size),
    model.feature_converter_cls,
  )
  train_evals = {}
  if loss_cfg is not None:
    rows = partitioner.local_rows(loss_cfg.batch_size)
    train_evals = {
      task.name: datasets.get_dataset(
        dataclasses.replace(loss_cfg, mixture_or_task_name=task),
        rows,
        model.feature_converter_cls,
      ).take(plan.eval_steps)
      for task in seqio.get_subtasks(loss_cfg.task_or_mixture())
      if loss_cfg.split in (task.splits or ())
    }
  evaluator = None
  if scored_cfg is not None:
    evaluator = evaluation.InferenceEvaluator(
      scored_cfg,
      functools.partial(
        plan.inference_evaluator_cls,
        async_compute_metrics=plan.concurrent_metrics,
      ),
      model,
      partitioner,
      os.path.join(plan.model_dir, "inference_eval"),
    )
  cuts = count_cuts()
  facts = {
    "train": train_cfg.name,
    "train_split": train_cfg.split,
    "train_examples": train_cfg.num_input_examples(),
    "shuffle_seed": shuffle_seed,
    "eval_split": scored_cfg and scored_cfg.split,
    "eval_examples": evaluator and evaluator.counts,
    "batch_size": train_cfg.batch_size,
    "lengths": dict(train_cfg.task_feature_lengths or {}),
    "cut": cuts,
  }
  notices += [
    f"For the {purpose}: {notice}"
    for purpose, cfg in cfgs.items()
    for notice in truncation.describe(cuts[purpose], cfg)
  ]
  return RunData(batches, train_evals, evaluator, facts, notices)
