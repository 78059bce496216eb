"""Lookup of seqio's tasks and mixtures, with suggestions for a wrong name."""

import importlib

import seqio

from prompt_tuning.data import task_names


def find(
  name: str | seqio.Task | seqio.Mixture,
  split: str | None = None,
  module: str | None = None,
) -> seqio.Task | seqio.Mixture:
  """Returns the task or mixture with a name.

  Args:
    name: A name registered with seqio, or the task or mixture itself.
    split: A split that the task or mixture must have.
    module: A module that registers it, which is imported first.

  Raises:
    ValueError: if the module, the name or the split is unknown.
  """
  if module:
    try:
      importlib.import_module(module)
    except ModuleNotFoundError as e:
      raise ValueError(
        f"MIXTURE_OR_TASK_MODULE={module!r} cannot be imported: {e}."
      ) from e
  known = seqio.MixtureRegistry.names() | seqio.TaskRegistry.names()
  if isinstance(name, str) and name not in known:
    text = task_names.unknown(name, known)
    if module:
      text += f" MIXTURE_OR_TASK_MODULE={module!r} does not register it."
    raise ValueError(text)
  provider = seqio.maybe_get_mixture_or_task(name)
  if split:
    check_split(provider, split)
  return provider


def check_split(provider: seqio.Task | seqio.Mixture, split: str) -> None:
  """Checks that a task or mixture has a split.

  Raises:
    ValueError: if its tasks have splits, but not this one.
  """
  splits = {
    split for task in seqio.get_subtasks(provider) for split in task.splits
  }
  if splits and split not in splits:
    raise ValueError(
      f"{provider.name} has no split {split!r}; it has {sorted(splits)}."
    )
