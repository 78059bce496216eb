"""Threads for work on a folder that may be locked, slow or hang."""

import asyncio
from collections.abc import Callable
from concurrent import futures
import contextvars
import functools
import time
from typing import Any

from prompt_tuning.tuning_jobs import database

_THREADS = 4
# The time that a call waits for a thread, has to do its work, and then has to
# end the transaction that it is in.
_WAIT_SECONDS, _SECONDS, _END_SECONDS = 5.0, 60.0, 5.0


class FolderThreads:
  """A few threads for one folder, so that it holds up no other requests.

  A call whose request was refused changes nothing in a store of jobs.
  """

  def __init__(self, name: str, seconds: float = _SECONDS):
    """Starts nothing yet.

    Args:
      name: The folder's name in messages.
      seconds: The time that a call has by default.
    """
    self._name, self._seconds = name, seconds
    self._pool = futures.ThreadPoolExecutor(_THREADS, name)

  def close(self) -> None:
    """Ends the threads that do nothing."""
    self._pool.shutdown(wait=False, cancel_futures=True)

  async def run(
    self, call: Callable[..., Any], *arguments: Any, seconds: float = 0.0
  ) -> Any:
    """Returns the result of a function, called in one of the threads.

    Raises:
      TimeoutError: if it does not get a thread, or end within the seconds.
    """
    seconds = seconds or self._seconds
    context = contextvars.copy_context()
    context.run(database.deadline.set, time.monotonic() + seconds)
    future = self._pool.submit(context.run, call, *arguments)
    waiting = asyncio.wrap_future(future)
    # Nobody waits any more for an error that comes too late.
    waiting.add_done_callback(lambda x: x.cancelled() or x.exception())
    await asyncio.wait([waiting], timeout=min(seconds, _WAIT_SECONDS))
    if not waiting.done() and not future.cancel():
      await asyncio.wait(
        [waiting], timeout=min(2 * seconds, seconds + _END_SECONDS)
      )
    if future.cancelled() or not waiting.done():
      raise TimeoutError(f"the folder of {self._name} did not answer in time")
    return waiting.result()

  def route(self, endpoint: Callable[..., Any]) -> Callable[..., Any]:
    """Returns a route's function that runs in one of the threads."""

    @functools.wraps(endpoint)
    async def run(*arguments: Any, **named: Any) -> Any:
      return await self.run(functools.partial(endpoint, *arguments, **named))

    return run
