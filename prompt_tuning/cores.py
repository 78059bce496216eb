"""The cores of this machine, divided among processes that run at once."""

from collections.abc import Collection
import os


def shares(count: int) -> list[Collection[int]]:
  """Divides the cores.

  Processes that each start a thread for every core would wait for each other.

  Args:
    count: Number of processes.

  Returns:
    The numbers of each process's cores. An empty result means all cores: for a
    single process, for more processes than cores, or on other systems than
    Linux.
  """
  affinity = getattr(os, "sched_getaffinity", None)  # Linux has it.
  cores = sorted(affinity(0)) if affinity else []
  size = len(cores) // count
  if count == 1 or not size:
    return [()] * count
  return [cores[i * size : (i + 1) * size] for i in range(count)]
