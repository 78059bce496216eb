"""Finds seqio's tasks and mixtures by name, and says what is near a wrong one.

`t5x.input.task_lookup` and `prompt_tuning.data.task_lookup` are the same:
neither may import the other's package.
"""

import difflib
import importlib

import seqio


def find(
  name: str, split: str | None = None, module: str | None = None
) -> seqio.Task | seqio.Mixture:
  """Returns what a name names.

  Args:
    name: Registered with seqio.
    split: One that it must have.
    module: Imported first, to register it.

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
  if name not in known:
    near = difflib.get_close_matches(name, sorted(known), n=5, cutoff=0.5)
    raise ValueError(
      f"No seqio task or mixture {name!r}"
      + (f"; near: {', '.join(near)}." if near else ".")
      + f" Registered by MIXTURE_OR_TASK_MODULE={module!r}: {len(known)} names."
    )
  provider = seqio.get_mixture_or_task(name)
  if split:
    check_split(provider, split)
  return provider


def check_split(provider: seqio.Task | seqio.Mixture, split: str) -> None:
  """Refuses a split that no task of `provider` has.

  Raises:
    ValueError: if there are splits, but not this one.
  """
  splits = {
    split for task in seqio.get_subtasks(provider) for split in task.splits
  }
  if splits and split not in splits:
    raise ValueError(
      f"{provider.name} has no split {split!r}; it has {sorted(splits)}."
    )
