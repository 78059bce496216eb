"""What TensorBoard shows of a run."""

import os
import time

import t5x
from t5x.files import storage

# Of torch, where that is, it takes the name of a class: that takes seconds.
with t5x.without("torch"):
  from tensorboardX import event_file_writer, summary
  from tensorboardX.proto import event_pb2


class EventFile:
  """Writes an event file in the caller's thread, who so hears of failures.

  tensorboardX's `SummaryWriter` has a thread, which the first write that fails
  ends: its queue fills, and who adds to it then waits for ever.
  """

  def __init__(self, folder: str, first_step: int):
    """Opens a new file.

    Args:
      folder: An existing one, on a disk or in a bucket.
      first_step: TensorBoard hides what earlier files have of later steps.
    """
    self._outbox = storage.Outbox(folder)
    self._writer = event_file_writer.EventsWriter(
      os.path.join(self._outbox.path, "events")
    )
    start = event_pb2.SessionLog(status=event_pb2.SessionLog.START)
    self._add(first_step + 1, session_log=start)

  def add_scalar(self, name: str, value: float, step: int) -> None:
    """Adds a point to a curve."""
    self._add(step, summary=summary.scalar(name, value))

  def add_text(self, name: str, text: str, step: int) -> None:
    """Adds Markdown."""
    self._add(step, summary=summary.text(name, text))

  def flush(self) -> None:
    """Has what was added in the folder.

    Raises:
      OSError: if it cannot be written.
    """
    self._writer.flush()
    self._outbox.send()

  def close(self) -> None:
    """Flushes it, and adds no more.

    Raises:
      OSError: if it cannot be written.
    """
    try:
      self._writer.close()
      self._outbox.send()
    finally:
      self._outbox.close()

  def _add(self, step: int, **content) -> None:
    self._writer.write_event(
      event_pb2.Event(wall_time=time.time(), step=step, **content)
    )
