"""Orbax's writer of a run's checkpoints, with digests and clear errors."""

from collections.abc import Iterator
import contextlib
import errno
import logging
import os

from etils import epath
import orbax.checkpoint as ocp

from t5x.files import digests

_OF_A_DISK = (errno.ENOSPC, errno.EDQUOT, errno.EACCES, errno.EROFS)


def is_news(record: logging.LogRecord) -> bool:
  """Returns whether to log a record: not if Orbax raises its error as well."""
  return record.levelno < logging.ERROR or "orbax" not in record.pathname


@contextlib.contextmanager
def names_checkpoint(path: epath.Path) -> Iterator[None]:
  """Turns errors of writing a checkpoint into an OSError that names it."""
  try:
    yield
  except (OSError, ValueError) as error:
    number, text = getattr(error, "errno", None), str(error)
    if number is None:
      # TensorStore's errors have the system's in their text, before brackets.
      known = (x for x in _OF_A_DISK if os.strerror(x) in text)
      number = next(known, None)
    if number is None:
      reason = text.partition(" [")[0]
      raise OSError(f"{reason}: '{path}'") from error
    raise OSError(number, os.strerror(number), str(path)) from error


class WithDigests(ocp.CompositeCheckpointHandler):
  """A handler that adds digests before a checkpoint gets its name."""

  def finalize(self, directory) -> None:
    super().finalize(directory)
    # Orbax writes the time into its own file later. It is never read here.
    digests.write(directory, leave_out={"_CHECKPOINT_METADATA"})


@ocp.args.register_with_handler(WithDigests, for_save=True, for_restore=True)
class RunItems(ocp.args.Composite):
  """The arguments of `WithDigests`."""
