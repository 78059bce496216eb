"""Adapter for Google's T5X, which may be installed in place of `runtime/`.

Google's T5X wants absolute paths and the folder `checkpoint_<step>` itself. It
has no fingerprints, and keeps the frozen parameters with the trainable ones.
Without a model, it reads only its format 3, so Orbax reads other checkpoints.
With the `t5x` in `runtime/`, paths stay as the user wrote them, in records too.
"""

import os
import re

from etils import epath
import jax
import numpy as np
import orbax.checkpoint as ocp

from t5x import checkpoints

_STEP_FOLDER = re.compile(r"checkpoint_(\d+)")


def is_installed() -> bool:
  """Returns whether `t5x` is Google's."""
  return not hasattr(checkpoints, "open_checkpoint")


def folder(path: str) -> str:
  """Returns a folder that a run writes to, in the form that `t5x` takes."""
  if not is_installed() or "://" in path:
    return path
  return os.path.abspath(path)


def checkpoint(path: str | None) -> str | None:
  """Returns a checkpoint to restore, in the form that `t5x` takes.

  Args:
    path: A folder `checkpoint_<step>`, or a folder of such folders, from which
      the newest is taken; None trains from scratch.

  Raises:
    ValueError: if Google's T5X is installed and there is no checkpoint.
  """
  if path is None or not is_installed():
    return path
  given = epath.Path(folder(path))
  if _STEP_FOLDER.fullmatch(given.name):
    return str(given)
  steps = [
    int(match[1])
    for child in (given.iterdir() if given.is_dir() else ())
    if (match := _STEP_FOLDER.fullmatch(child.name))
  ]
  if not steps:
    raise ValueError(
      f"No checkpoint at {path}: expected a folder checkpoint_<step>, or one "
      "that holds such folders."
    )
  return str(given / f"checkpoint_{max(steps)}")


def token_embedding(path: str) -> np.ndarray:
  """Reads the embedding of a base checkpoint without `runtime/`.

  Args:
    path: As for `checkpoint`.

  Returns:
    [V, H] float32.
  """
  place = epath.Path(checkpoint(path) or "")
  if (place / "checkpoint").is_file():
    lazy = checkpoints.load_t5x_checkpoint(str(place), lazy_parameters=True)
    embedding = lazy["target"]["token_embedder"]["embedding"].get()
    return np.asarray(embedding, np.float32)
  item = {"target": {"token_embedder": {"embedding": 0}}}
  with ocp.Checkpointer(ocp.PyTreeCheckpointHandler()) as checkpointer:
    restored = checkpointer.restore(
      place / "state",
      args=ocp.args.PyTreeRestore(
        item=item,
        restore_args=jax.tree.map(
          lambda _: ocp.RestoreArgs(restore_type=np.ndarray), item
        ),
        partial_restore=True,
      ),
    )
  embedding = restored["target"]["token_embedder"]["embedding"]
  return np.asarray(embedding, np.float32)
