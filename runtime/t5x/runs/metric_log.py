"""Metrics of a run: lines of JSON with a `step`, and TensorBoard's events."""

from collections.abc import Callable, Collection, Mapping, Sequence
import json
import os
import time
from typing import Any

from etils import epath
import jax

import t5x
from t5x.files import failures, safe_files, storage

Line = Mapping[str, Any]


class MetricLog:
  """A log of scalars, in `metrics.jsonl` and for TensorBoard.

  The first process writes it, in the caller's thread, which sees errors.
  tensorboardX's own writer works in a thread that ends at the first error; then
  its queue fills, and the next caller waits forever.
  """

  def __init__(
    self,
    folder: str,
    first_step: int,
    evals: Sequence[Mapping[str, Any]] = (),
    is_evaluated: bool = True,
  ):
    """Opens the files.

    Args:
      folder: The run's folder, on a disk or in a bucket.
      first_step: The step to resume from; -1 for a new run. Lines of later
        steps are dropped, and TensorBoard hides later steps of earlier files.
      evals: The inference evaluations so far; missing lines are added.
      is_evaluated: Whether `first_step` has been evaluated; if not, the lines
        of its interrupted evaluation are dropped.
    """
    self._path = os.path.join(folder, "metrics.jsonl")
    self._is_first = jax.process_index() == 0
    if not self._is_first:
      return
    keep(
      self._path,
      lambda line: (
        line["step"] < first_step
        or (
          line["step"] == first_step
          and (is_evaluated or not any("_eval/" in name for name in line))
        )
      ),
      [
        {"step": e["step"], **_scalars(f"inference_eval/{task}", values)}
        for e in evals
        for task, values in e["metrics"].items()
      ],
    )
    # Slow imports that only training needs. tensorboardX imports torch if it
    # can, just for a class name; that takes seconds.
    with t5x.without("torch"):
      from tensorboardX import event_file_writer, summary
      from tensorboardX.proto import event_pb2
    self._summary, self._event = summary, event_pb2.Event
    self._upload = storage.UploadFolder(folder)
    self._writer = event_file_writer.EventsWriter(
      os.path.join(self._upload.path, "events")
    )
    start = event_pb2.SessionLog(status=event_pb2.SessionLog.START)
    self._add(first_step + 1, session_log=start)

  def _add(self, step: int, **content: Any) -> None:
    with failures.explained(self._upload.path):
      self._writer.write_event(
        self._event(wall_time=time.time(), step=step, **content)
      )

  def add_text(self, name: str, text: str, step: int) -> None:
    """Shows Markdown in TensorBoard."""
    if self._is_first:
      self._add(step, summary=self._summary.text(name, text))

  def write(self, step: int, prefix: str, values: Mapping[str, float]) -> None:
    """Logs `values` under `prefix/name`.

    Raises:
      OSError: if they cannot be written.
    """
    if not self._is_first:
      return
    scalars = _scalars(prefix, values)
    storage.append(self._path, json.dumps({"step": step, **scalars}) + "\n")
    for name, value in scalars.items():
      self._add(step, summary=self._summary.scalar(name, value))
    with failures.explained(self._upload.path):
      self._writer.flush()
    self._upload.send()

  def close(self) -> None:
    """Closes the files.

    Raises:
      OSError: if they cannot be written.
    """
    if not self._is_first:
      return
    try:
      with failures.explained(self._upload.path):
        self._writer.close()
      self._upload.send()
    finally:
      self._upload.close()


def _scalars(prefix: str, values: Mapping[str, float]) -> dict[str, float]:
  """Returns values under their names in `metrics.jsonl`."""
  return {f"{prefix}/{name}": float(x) for name, x in values.items()}


def keep(
  path: str | os.PathLike[str],
  is_kept: Callable[[Line], bool],
  wanted: Sequence[Line] = (),
) -> None:
  """Drops lines of a file, and the partial last line of a killed process.

  A file with other unreadable lines is set aside, but its readable lines are
  kept.

  Args:
    path: The file; it need not exist.
    is_kept: Returns whether a line stays.
    wanted: Lines that the file must have; those that it lacks are added.
  """
  path = epath.Path(path)
  content = path.read_bytes() if path.exists() else b""
  # The last line is partial unless it is empty.
  *whole, rest = content.split(b"\n")
  lines = [_parse(text) for text in whole]
  kept = [line for line in lines if line is not None and is_kept(line)]
  added = [line for line in wanted if line not in kept]
  if None in lines:
    safe_files.set_aside(
      path,
      f"line {lines.index(None) + 1} has no metrics of a step",
      "Readable lines are kept, and evaluations are added.",
    )
  elif not added and len(kept) == len(lines) and not rest:
    return
  kept = sorted([*kept, *added], key=lambda line: line["step"])
  safe_files.write(path, "".join(json.dumps(line) + "\n" for line in kept))


def _parse(text: bytes) -> Line | None:
  try:
    line = json.loads(text)
  except (ValueError, RecursionError):
    return None
  has_step = isinstance(line, dict) and isinstance(line.get("step"), int)
  return line if has_step else None


def keep_evaluations(
  folder: str | os.PathLike[str], steps: Collection[int]
) -> None:
  """Drops seqio's lines of evaluations that will be repeated, and duplicates.

  Args:
    folder: The folder of seqio's `<task>-metrics.jsonl`.
    steps: The steps of the evaluations that stay.
  """
  for path in epath.Path(folder).glob("*-metrics.jsonl"):
    left = set(steps)

    def is_kept(line: Line, left=left) -> bool:
      is_new = line["step"] in left
      left.discard(line["step"])
      return is_new

    keep(path, is_kept)
