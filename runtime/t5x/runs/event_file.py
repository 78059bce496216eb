"""TensorBoard's file of events."""

import os
import time

import t5x
from t5x.files import storage

# tensorboardX imports torch if it can, only for a class name; it takes seconds.
with t5x.without("torch"):
  from tensorboardX import event_file_writer, summary
  from tensorboardX.proto import event_pb2


class EventFile:
  """An event file that is written in the caller's thread, which sees errors.

  tensorboardX's `SummaryWriter` writes in another thread, which ends at the
  first error: its queue fills, and the next caller waits for ever.
  """

  def __init__(self, folder: str, first_step: int):
    """Opens a new file.

    Args:
      folder: An existing folder, on a disk or in a bucket.
      first_step: TensorBoard hides later steps of earlier files.
    """
    self._upload = storage.UploadFolder(folder)
    self._writer = event_file_writer.EventsWriter(
      os.path.join(self._upload.path, "events")
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
    """Writes everything that was added to the folder.

    Raises:
      OSError: if it cannot be written.
    """
    self._writer.flush()
    self._upload.send()

  def close(self) -> None:
    """Flushes and closes the file.

    Raises:
      OSError: if it cannot be written.
    """
    try:
      self._writer.close()
      self._upload.send()
    finally:
      self._upload.close()

  def _add(self, step: int, **content) -> None:
    self._writer.write_event(
      event_pb2.Event(wall_time=time.time(), step=step, **content)
    )
