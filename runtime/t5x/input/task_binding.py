"""Binds tasks that leave their vocabulary open to a model.

seqio registers tasks once for a whole program, but models come and go. The
vocabulary of a task may be a placeholder for the model's, of a class with
`stands_for_model = True`. Such a task is used through a copy with the model's
vocabulary. The copy is not registered, so two models can use one task at once.
"""

from collections.abc import Iterator
import contextlib
import copy
import dataclasses
import uuid

import seqio

from t5x.input import datasets


def for_model(
  cfg: datasets.DatasetConfig, model: datasets.HasVocabularies
) -> datasets.DatasetConfig:
  """Returns the configuration of the same examples, in a model's tokens.

  Args:
    cfg: The examples.
    model: The model, whose vocabularies replace placeholders.

  Raises:
    ValueError: if the module, the name or the split is unknown, or the task has
      another vocabulary than the model.
  """
  provider = _bound(cfg.task_or_mixture(), model)
  cfg = dataclasses.replace(cfg, mixture_or_task_name=provider)
  datasets.verify_matching_vocabs(cfg, model)
  return cfg


def _bound(
  provider: seqio.Task | seqio.Mixture, model: datasets.HasVocabularies
) -> seqio.Task | seqio.Mixture:
  if isinstance(provider, seqio.Mixture):
    parts = {k: _bound(x, model) for k, x in provider._task_map.items()}
    mixture = copy.copy(provider)
    mixture._task_map = parts
    mixture._tasks = [parts[x.name] for x in provider._tasks]
    mixture._sub_mixtures = [parts[x.name] for x in provider._sub_mixtures]
    return mixture
  features = {
    name: dataclasses.replace(
      feature,
      vocabulary=model.input_vocabulary
      if name == "inputs"
      else model.output_vocabulary,
    )
    for name, feature in provider.output_features.items()
    if getattr(type(feature.vocabulary), "stands_for_model", False)
  }
  if not features:
    return provider
  return provider.replace(
    output_features={**provider.output_features, **features}
  )


@contextlib.contextmanager
def registered(provider: seqio.Task | seqio.Mixture) -> Iterator[str]:
  """Gives a task or mixture a name for a while.

  `seqio.Evaluator` takes a name and no task.

  Args:
    provider: The task or mixture; its own name stays.

  Yields:
    A name that is registered for nothing else.
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
