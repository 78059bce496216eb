"""A process that does one side's work in turns with the other sides.

It prints a line of JSON when it is ready. For each line "N" that it reads, it
makes N calls and prints their cost. The parent process decides the turns.
"""

from collections.abc import Callable
import importlib
import json
import os
import sys
import time
from typing import Any

import numpy as np

import harness
from peers.cases import Case

# Values to compare with the other sides, by name.
Outcome = dict[str, Any]
# Processes batch number i.
Call = Callable[[int], Outcome]


def main() -> None:
  """Runs one side. Arguments: side, case as JSON, folder of the weights."""
  side, case_text, folder = sys.argv[1:]
  case = Case(**json.loads(case_text))
  # Redirects the output of libraries to stderr.
  answers = os.fdopen(os.dup(1), "w")
  os.dup2(2, 1)

  def answer(**fields: Any) -> None:
    json.dump(fields, answers, default=lambda x: np.asarray(x).tolist())
    print(file=answers, flush=True)

  peer, _, variant = side.partition(", ")
  module = importlib.import_module(f"peers.{peer}")
  start = time.monotonic()
  call = module.make(case, folder, variant)
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
    cpu = time.process_time()
    for i in range(int(line)):
      start = time.monotonic()
      call(i % number)
      seconds.append(time.monotonic() - start)
    answer(
      seconds=seconds,
      cpu_seconds=time.process_time() - cpu,
      peak_bytes=harness.process_bytes("VmHWM"),
    )


if __name__ == "__main__":
  main()
