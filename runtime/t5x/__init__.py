"""The part of T5X's interface that prompt tuning uses, from PyPI alone."""

import os

__version__ = "0.1.0"


def _import_tensorflow_quietly() -> None:
  """Imports TensorFlow without the notes that no setting of it turns off.

  It reads the data and nothing else here, so what it says about accelerators
  is not news; it says it on descriptor 2, where Python does not hear it.
  """
  os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
  os.environ.setdefault("TF_ENABLE_ONEDNN_OPTS", "0")
  stderr = os.dup(2)
  null = os.open(os.devnull, os.O_WRONLY)
  try:
    os.dup2(null, 2)
    import tensorflow as tf
    import tensorflow_text  # noqa: F401

    # The accelerator is JAX's.
    for kind in ("GPU", "TPU"):
      tf.config.set_visible_devices([], kind)
  finally:
    os.dup2(stderr, 2)
    os.close(stderr)
    os.close(null)


_import_tensorflow_quietly()
