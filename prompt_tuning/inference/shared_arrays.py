"""A model's arrays in memory that processes of one machine share.

They are NumPy files, which the first process writes and all processes map, so
the system holds their pages once. JAX on a CPU uses mapped arrays in place.
"""

from collections.abc import Callable, Mapping
import json
import os
import pathlib

import filelock
import jax
import jax.numpy as jnp
import numpy as np

_INDEX = "arrays.json"


def made(
  make: Callable[[], Mapping[str, jax.Array]],
  folder: str | os.PathLike[str],
  fingerprint: str,
) -> dict[str, jax.Array]:
  """Returns the arrays that the first process makes.

  Args:
    make: Returns name -> array, on one device of a CPU.
    folder: A new folder, or one that another process has used for these arrays;
      its files must not change.
    fingerprint: Of the model.

  Returns:
    Name -> array.

  Raises:
    ValueError: if the folder has the arrays of another model.
  """
  folder = pathlib.Path(folder)
  index = folder / _INDEX
  with filelock.FileLock(folder / "lock"):
    if not index.exists():
      dtypes = {}
      for i, (name, array) in enumerate(make().items()):
        np.save(folder / f"{i}.npy", np.asarray(array))
        dtypes[name] = array.dtype.name
      index.write_text(json.dumps([fingerprint, dtypes]))
  model, dtypes = json.loads(index.read_text())
  if model != fingerprint:
    raise ValueError(
      f"The checkpoint has the fingerprint {fingerprint}, but the other "
      f"processes loaded a model with {model}: restart the server."
    )
  device = jax.local_devices()[0]
  return {
    # NumPy's format has no name for bfloat16.
    name: jax.device_put(
      np.load(folder / f"{i}.npy", mmap_mode="r").view(jnp.dtype(dtype)),
      device,
    )
    for i, (name, dtype) in enumerate(dtypes.items())
  }
