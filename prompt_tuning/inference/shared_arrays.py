"""A model's arrays in memory that processes of one machine share.

They are files of NumPy's, which the first process writes and all map: the
system holds their pages once. JAX on a CPU uses a mapped array as it is.
"""

from collections.abc import Mapping
import os
import pathlib

import filelock
import jax
import numpy as np

from t5x import checkpoints

_DONE = "done"


def read(
  base: checkpoints.BaseCheckpoint,
  targets: Mapping[str, jax.ShapeDtypeStruct],
  folder: str | os.PathLike[str],
) -> dict[str, jax.Array]:
  """Reads a model's arrays.

  Args:
    base: The model.
    targets: Name -> dtype, and sharding, which is one device of a CPU.
    folder: A new folder, or one that another process has used for this model;
      it must stay as it is.

  Returns:
    Name -> array.
  """
  folder = pathlib.Path(folder)
  files = {name: folder / f"{i}.npy" for i, name in enumerate(targets)}
  with filelock.FileLock(folder / "lock"):
    if not (folder / _DONE).exists():
      for name, array in base.read(targets).items():
        np.save(files[name], np.asarray(array))
      (folder / _DONE).touch()
  return {
    # NumPy's format has no name for bfloat16.
    name: jax.device_put(
      np.load(file, mmap_mode="r").view(targets[name].dtype),
      targets[name].sharding,
    )
    for name, file in files.items()
  }
