"""The building of tf.data pipelines."""

from collections.abc import Callable
from typing import Any

from absl import logging
import tensorflow as tf


def build(make: Callable[..., Any], *arguments: Any, **named: Any) -> Any:
  """Calls a function that builds a pipeline, if possible without AutoGraph.

  AutoGraph rewrites each function that maps examples, so that `if` and `for`
  may depend on a tensor. That takes seconds, and few functions need it: only a
  pipeline that cannot be built without it is built with it.

  Args:
    make: The function, such as `seqio.get_dataset`.
    *arguments: Positional arguments of `make`.
    **named: Keyword arguments of `make`.

  Returns:
    The function's result.
  """
  try:
    return tf.autograph.experimental.do_not_convert(make)(*arguments, **named)
  except Exception as error:  # The function's own errors are raised again.
    logging.info("A pipeline is built with AutoGraph: %s", error)
    return make(*arguments, **named)
