"""What several processes of one run must agree on."""

import json
from typing import Any

import jax
from jax.experimental import multihost_utils
import numpy as np


def of_first_process(value: Any) -> Any:
  """Returns the first process's value, which is JSON, on all of them."""
  if jax.process_count() == 1:
    return value
  text = np.frombuffer(json.dumps(value).encode(), np.uint8)
  size = int(multihost_utils.broadcast_one_to_all(np.int32(len(text))))
  # The others need an array of that size; what is in theirs is not looked at.
  text = multihost_utils.broadcast_one_to_all(np.resize(text, size))
  return json.loads(text.tobytes())


def wait_for_all(what: str) -> None:
  """Waits until every process is here; `what` names the place."""
  if jax.process_count() > 1:
    multihost_utils.sync_global_devices(what)


def is_true_anywhere(value: bool) -> bool:
  """Whether it is in any process; each of them calls it."""
  if jax.process_count() == 1:
    return value
  return bool(multihost_utils.process_allgather(np.bool_(value)).any())
