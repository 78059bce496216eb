"""Whether this process is one of several that were started together.

Which one, and where the others are, `jax.distributed.initialize` finds out.
"""

import glob
import importlib.util
import os


def is_in_one() -> bool:
  """Whether it runs on a TPU VM, or is one of several tasks of `srun`."""
  return _is_on_tpu() or _is_in_slurm_step()


def _is_on_tpu() -> bool:
  platforms = os.environ.get("JAX_PLATFORMS", "tpu")
  # libtpu is also installed where programs are only compiled.
  return (
    "tpu" in platforms
    and importlib.util.find_spec("libtpu") is not None
    and bool(glob.glob("/dev/accel[0-9]*") or glob.glob("/dev/vfio/[0-9]*"))
  )


def _is_in_slurm_step() -> bool:
  # A batch script without srun is no step, whatever it was granted. A shell
  # that salloc opened is one of one task, and SLURM_NTASKS what it was granted.
  has_step = "SLURM_STEP_NODELIST" in os.environ
  return has_step and int(os.environ.get("SLURM_STEP_NUM_TASKS", "1")) > 1
