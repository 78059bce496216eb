"""The prompts that are served: the files of a folder, by their names."""

from collections.abc import Iterator
import contextlib
import dataclasses
import io
import os
import pathlib
import re
import tempfile
import threading
import time
from typing import Any
import zipfile

from absl import logging
from etils import epath
import numpy as np

from prompt_tuning import prompt_files
from prompt_tuning.data import vocabulary as vocabulary_lib
from prompt_tuning.data.release import zip_files
from prompt_tuning.inference.engine import Engine
from prompt_tuning.inference.requests import Prompt
from prompt_tuning.interop import peft_adapters
from t5x.files import storage

_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,63}")
# Bytes of an adapter's files, unpacked.
_MOST_BYTES = {
  peft_adapters.CONFIG: 64 * 2**10,
  peft_adapters.WEIGHTS: 64 * 2**20,
}
_MOST_ENTRIES = 1000
# Between looks at what others wrote into the folder: on a disk, in a bucket;
# and, as a part of that, between looks for names that are not known.
_REFRESH_SECONDS = 1.0, 10.0
_PAUSE = 0.1
# The stamp of a file that could not be read, and may be later.
_UNREAD = ()


class UnknownPromptError(KeyError):
  """There is no prompt of that name."""


class UnreadError(Exception):
  """There may be a prompt of that name: its folder or file was not read."""


@dataclasses.dataclass(frozen=True)
class _Entry:
  prompt: Prompt | None  # None: the file is none of ours, and was told of.
  stamp: tuple[Any, ...]


class PromptStore:
  """The prompts of a folder, also in a bucket, which others may write to.

  What a file holds is in memory; a file that changes is read again. Any thread
  may call.
  """

  def __init__(self, folder: str | os.PathLike[str], engine: Engine, base: str):
    """Reads the folder, which is made if it is not there.

    Args:
      folder: Its files NAME.safetensors and NAME.npy are the prompts.
      engine: What answers with them.
      base: The name of the model alone, which no prompt may have.
    """
    self.folder = epath.Path(folder)
    self.folder.mkdir(parents=True, exist_ok=True)
    self._period = _REFRESH_SECONDS[storage.is_bucket(folder)]
    self._engine = engine
    self._base = base
    self._vocabulary = vocabulary_lib.sha256(engine.model.vocabulary)
    self._lock = threading.RLock()
    self._entries: dict[str, _Entry] = {}
    self._refreshed = -float("inf")
    self._is_looking = self._has_failed = False
    self.refresh()

  def refresh(self) -> None:
    """Reads what is new in the folder, and forgets what is gone."""
    with self._lock:
      self._refreshed = time.monotonic()
      self._is_looking = self._has_failed = True
      try:
        self._entries = self._look()
        self._has_failed = False
      finally:
        self._is_looking = False

  def _look(self) -> dict[str, _Entry]:
    files, chosen, found = _files(self.folder), {}, {}
    for name in sorted(files):  # Of two of a name, the .safetensors is last.
      stem, suffix = os.path.splitext(name)
      if suffix in prompt_files.SUFFIXES and _NAME.fullmatch(stem):
        chosen[stem] = name
    for stem, name in chosen.items():
      known, stamp = self._entries.get(stem), (name, *files[name])
      if known is None or known.stamp != stamp:
        known = self._read(self.folder / name, known, stamp)
      found[stem] = known
    return found

  def all(self) -> list[Prompt]:
    """Returns the prompts, by name."""
    if self._is_late():
      with self._lock:
        self._refresh_if_late()
    known = self._entries.values()
    return [x.prompt for x in known if x.prompt is not None]

  def names(self) -> set[str]:
    """Returns what a model may be called: prompts, and the base alone."""
    return {self._base, *(prompt.name for prompt in self.all())}

  def in_memory(self, name: str, is_late: bool = False) -> Prompt | None:
    """Returns a prompt at once, or None if `get` has to look for it.

    Args:
      name: Its name.
      is_late: Whether to return what was there at the last look, though it is
        time for another.
    """
    entry = self._entries.get(name)
    if entry is None or (self._is_late() and not is_late):
      return None
    return entry.prompt

  def pause(self, asked: float) -> float:
    """Returns for how long not to look for a name, in seconds.

    Args:
      asked: When it was asked for, as of `time.monotonic`.
    """
    if self._refreshed > asked:  # There will be no look.
      return 0.0
    due = self._refreshed + _PAUSE * self._period
    return max(0.0, due - time.monotonic())

  def get(self, name: str, asked: float | None = None) -> Prompt:
    """Returns a prompt.

    Args:
      name: Its name.
      asked: When it was asked for, as of `time.monotonic`; None is now. Those
        who wait for a look at the folder share the next.

    Raises:
      UnknownPromptError: if there is none of that name.
      UnreadError: if that is not known.
    """
    asked = time.monotonic() if asked is None else asked
    with self._lock:
      self._refresh_if_late()
      # A job may have ended just now.
      if name not in self._entries and self._refreshed <= asked:
        self._try_to_refresh()
      entry, has_failed = self._entries.get(name), self._has_failed
    if entry is not None and entry.prompt is not None:
      return entry.prompt
    if has_failed if entry is None else entry.stamp == _UNREAD:
      raise UnreadError(name)
    raise UnknownPromptError(name)

  def put(self, name: str, content: bytes) -> Prompt:
    """Keeps a prompt, in the place of one that had its name.

    Args:
      name: Its name.
      content: A `.safetensors` or `.npy` file, or a zip archive of a PEFT
        adapter.

    Raises:
      ValueError: for what is no prompt of the model, or no name.
    """
    self.check_name(name)
    with tempfile.TemporaryDirectory(prefix="prompt_") as scratch:
      array, metadata = _parse(content, pathlib.Path(scratch))
    prompt = self._checked(name, array, metadata)
    # Without the lock, for which everybody would wait if the folder is slow.
    prompt_files.save_prompt(
      self.folder / f"{name}.safetensors", array, metadata
    )
    (self.folder / f"{name}.npy").unlink(missing_ok=True)
    self.refresh()
    return prompt

  def delete(self, name: str) -> None:
    """Removes a prompt and its file.

    Raises:
      UnknownPromptError: if there is none of that name.
      UnreadError: if that is not known.
    """
    self.get(name)
    for suffix in prompt_files.SUFFIXES:
      (self.folder / f"{name}{suffix}").unlink(missing_ok=True)
    self.refresh()

  def check_name(self, name: str) -> None:
    """Raises ValueError for what cannot be the name of a prompt."""
    if not _NAME.fullmatch(name):
      raise ValueError(
        "Expected a name of at most 64 letters, digits, '.', '_' and '-', "
        f"which begins with a letter or a digit, got {name[:80]!r}."
      )
    if name == self._base:
      raise ValueError(f"{name} is the name of the model alone.")

  def _is_late(self) -> bool:
    """Whether it is time for a look, and nobody is at it: it may take long."""
    now = time.monotonic()
    return now - self._refreshed > self._period and not self._is_looking

  def _refresh_if_late(self) -> None:
    if self._is_late():
      self._try_to_refresh()

  def _try_to_refresh(self) -> None:
    """Refreshes; if the folder cannot be listed, what is known stays."""
    try:
      self.refresh()
    except Exception as error:  # Those of a bucket are of many kinds.
      logging.error("%s cannot be listed: %r", self.folder, error)

  def _read(
    self, path: epath.Path, known: _Entry | None, stamp: tuple[Any, ...]
  ) -> _Entry:
    """Reads a file; one that cannot be read keeps nobody from the others."""
    try:
      self.check_name(path.stem)
      prompt = self._checked(path.stem, *prompt_files.load_prompt(path))
    except ValueError as error:
      logging.warning("%s is not served: %s", path, error)
      return _Entry(None, stamp)
    except Exception as error:  # Of a disk or a bucket: it may pass.
      if known is None or known.stamp != _UNREAD:
        logging.warning("%s cannot be read: %r", path, error)
      return _Entry(known.prompt if known else None, _UNREAD)
    return _Entry(prompt, stamp)

  def _checked(
    self,
    name: str,
    array: np.ndarray,
    metadata: prompt_files.PromptMetadata | None,
  ) -> Prompt:
    """Returns a prompt that the model can be given."""
    model = self._engine.model
    width = model.config.emb_dim
    if metadata is not None:
      prompt_files.check_compatible(
        metadata, model.fingerprint, self._vocabulary
      )
    if array.shape[1] != width:
      raise ValueError(
        f"Expected a prompt of width {width}, that of {self._base}, got "
        f"{list(array.shape)}: it is that of another model."
      )
    prompt = Prompt(name, array, metadata)
    self._engine.check_prompt(prompt)
    return prompt


def _files(folder: epath.Path) -> dict[str, tuple[Any, ...]]:
  """Returns a folder's files, with what is another if a file is another."""
  found = {}
  if not storage.is_bucket(folder):
    for entry in os.scandir(folder):
      try:
        stat = entry.stat()
      except FileNotFoundError:  # It is gone already.
        continue
      except OSError:  # Such as of a link to itself: `_read` says so.
        found[entry.name] = _UNREAD
        continue
      # A clock may be slow: of a file half written it is the size that tells.
      found[entry.name] = (stat.st_mtime_ns, stat.st_ino, stat.st_size)
    return found
  system = storage.file_system(folder)
  system.invalidate_cache()
  with contextlib.suppress(FileNotFoundError):  # There is no file.
    for entry in system.ls(os.fspath(folder), detail=True):  # One request.
      found[entry["name"].rpartition("/")[2]] = (entry.get("generation"),)
  return found


def _parse(
  content: bytes, scratch: pathlib.Path
) -> tuple[np.ndarray, prompt_files.PromptMetadata | None]:
  """Reads an upload, by what it begins with.

  Raises:
    ValueError: if it is none; the message does not name the scratch folder.
  """
  try:
    if content.startswith(b"PK"):
      for name, part in _adapter_files(content):
        (scratch / name).write_bytes(part)
      return peft_adapters.load_adapter(scratch)
    is_numpy = content.startswith(np.lib.format.MAGIC_PREFIX)
    path = scratch / f"prompt{'.npy' if is_numpy else '.safetensors'}"
    path.write_bytes(content)
    return prompt_files.load_prompt(path)
  except ValueError as error:
    message = str(error).replace(f"{scratch}{os.sep}", "")
    raise ValueError(message.replace(str(scratch), "the upload")) from None


def _adapter_files(content: bytes) -> Iterator[tuple[str, bytes]]:
  """Yields the files of an adapter in an archive, wherever they are in it."""
  seen = set()
  # Python makes an object of each entry when it opens an archive.
  if content.count(zipfile.stringCentralDir) > _MOST_ENTRIES:
    raise ValueError(f"Expected at most {_MOST_ENTRIES} files in the archive.")
  try:
    with zipfile.ZipFile(io.BytesIO(content)) as archive:
      for info in archive.infolist():
        name = pathlib.PurePosixPath(info.filename).name
        if (most := _MOST_BYTES.get(name)) is None:
          continue
        # Many, each small when it is packed, would take for ever.
        if name in seen:
          raise ValueError(f"Expected one adapter, got {name} twice.")
        seen.add(name)
        # Others are unpacked whole, whatever size the archive says.
        if info.compress_type not in (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED):
          raise ValueError(f"Expected {name} stored or deflated.")
        if info.file_size > most:
          raise ValueError(
            f"Expected {name} of at most {most} bytes, got {info.file_size}."
          )
        with archive.open(info) as file:
          yield name, file.read(most)
  except zip_files.MALFORMED as error:
    raise ValueError(f"Expected a zip archive, got none: {error}.") from None


def adapter_archive(prompt: Prompt) -> bytes:
  """Returns a prompt as a zip archive of a PEFT adapter."""
  buffer = io.BytesIO()
  with tempfile.TemporaryDirectory(prefix="prompt_") as scratch:
    folder = pathlib.Path(scratch) / "adapter"
    peft_adapters.save_adapter(folder, prompt.array, prompt.metadata)
    with zipfile.ZipFile(buffer, "w") as archive:
      for path in sorted(folder.iterdir()):
        archive.write(path, path.name)
  return buffer.getvalue()
