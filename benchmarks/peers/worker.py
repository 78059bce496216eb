"""A process that does one side's work in turns with the other sides.

It prints a line of JSON when it is ready. For each line "N" that it reads, it
makes N calls and prints their cost. The parent process decides the turns.
"""

from collections.abc import Callable
import dataclasses
import importlib
import json
import os
import resource
import sys
import time
from typing import Any

import numpy as np

from peers.cases import Case

# Values to be compared with the other sides, by name.
Outcome = dict[str, Any]
# Processes batch number i.
Call = Callable[[int], Outcome]
_MODULES = {
  "ours": "peers.ours",
  "peft": "peers.hugging_face",
  "t5x": "peers.google_t5x",
}


def peak_bytes() -> int:
  """Returns the peak memory of this process, without its parent's.

  `getrusage` includes the memory of the parent at the fork.
  """
  try:
    with open("/proc/self/status", encoding="utf-8") as f:
      lines = (x.split() for x in f)
      return next(int(x[1]) * 1024 for x in lines if x[0] == "VmHWM:")
  except (OSError, StopIteration):
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024


def cpu_seconds() -> float:
  usage = resource.getrusage(resource.RUSAGE_SELF)
  return usage.ru_utime + usage.ru_stime


def main() -> None:
  """Runs one side. Arguments: side, case as JSON, folder, options."""
  side, case_text, folder, options = sys.argv[1:]
  case = Case(**json.loads(case_text))
  # Output of libraries goes to stderr.
  answers = os.fdopen(os.dup(1), "w")
  os.dup2(2, 1)

  def answer(**fields: Any) -> None:
    answers.write(json.dumps(fields, default=_plain) + "\n")
    answers.flush()

  peer, _, variant = side.partition(", ")
  module = importlib.import_module(_MODULES[peer])
  start = time.monotonic()
  call = module.make(case, folder, variant, json.loads(options))
  loaded = time.monotonic()
  outcome = call(0)
  number = len(case.batches())
  for i in range(1, number):
    call(i)
  answer(
    outcome=outcome,
    load_seconds=loaded - start,
    warm_seconds=time.monotonic() - loaded,
    batches=number,
  )
  for line in sys.stdin:
    seconds = []
    cpu = cpu_seconds()
    for i in range(int(line)):
      start = time.monotonic()
      call(i % number)
      seconds.append(time.monotonic() - start)
    answer(
      seconds=seconds, cpu_seconds=cpu_seconds() - cpu, peak_bytes=peak_bytes()
    )


def _plain(x: Any) -> Any:
  return (
    dataclasses.asdict(x)
    if dataclasses.is_dataclass(x)
    else np.asarray(x).tolist()
  )


if __name__ == "__main__":
  main()
