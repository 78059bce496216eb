"""Agreement between the processes of one run."""

import glob
import importlib.util
import json
import os
from typing import Any

import jax
from jax.experimental import multihost_utils
import numpy as np


def from_first_process(value: Any) -> Any:
  """Returns the first process's value, which is JSON, in all processes."""
  if jax.process_count() == 1:
    return value
  text = np.frombuffer(json.dumps(value).encode(), np.uint8)
  size = int(multihost_utils.broadcast_one_to_all(np.int32(len(text))))
  # The others need an array of that size; its content does not matter.
  text = multihost_utils.broadcast_one_to_all(np.resize(text, size))
  return json.loads(text.tobytes())


def wait_for_all(what: str) -> None:
  """Waits until every process is here; `what` names the place."""
  if jax.process_count() > 1:
    multihost_utils.sync_global_devices(what)


def is_true_anywhere(value: bool) -> bool:
  """Returns whether a value is true in any process; all of them must ask."""
  if jax.process_count() == 1:
    return value
  return bool(multihost_utils.process_allgather(np.bool_(value)).any())


def is_one_of_several() -> bool:
  """Returns whether this process was started together with others.

  That is so on a TPU VM, and in a step of several tasks of `srun`.
  `jax.distributed.initialize` finds out where the others are.
  """
  # libtpu is also installed where programs are only compiled.
  is_on_tpu = (
    "tpu" in os.environ.get("JAX_PLATFORMS", "tpu")
    and importlib.util.find_spec("libtpu") is not None
    and bool(glob.glob("/dev/accel[0-9]*") or glob.glob("/dev/vfio/[0-9]*"))
  )
  # A batch script without srun is not a step. A shell that salloc opened is a
  # step of one task, although SLURM_NTASKS is the number that was granted.
  has_step = "SLURM_STEP_NODELIST" in os.environ
  tasks = int(os.environ.get("SLURM_STEP_NUM_TASKS", "1"))
  return is_on_tpu or (has_step and tasks > 1)
