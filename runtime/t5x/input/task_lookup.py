"""Seqio's tasks and mixtures by name."""

import importlib

import seqio

from t5x.configuration.client import clients


def find(
  name: str | seqio.Task | seqio.Mixture,
  split: str | None = None,
  module: str | None = None,
) -> seqio.Task | seqio.Mixture:
  """Returns the task or mixture of a name.

  A client that brings tasks may find them itself, to say more of a wrong name.

  Args:
    name: A name registered with seqio, or the task or mixture itself.
    split: A split that it must have.
    module: A module that registers it, imported first.

  Raises:
    ValueError: if the name, or to a client the module or split, is unknown.
  """
  for client in clients():
    if client.find_task is not None:
      return client.find_task(name, split, module)
  if module:
    importlib.import_module(module)
  return seqio.maybe_get_mixture_or_task(name)


def check_split(provider: seqio.Task | seqio.Mixture, split: str) -> None:
  """Checks that a task or mixture has a split, as `find` does."""
  find(provider, split)
