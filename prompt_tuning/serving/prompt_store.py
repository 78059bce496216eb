"""The served prompts: the files of a folder, by name."""

import asyncio
import collections
from collections.abc import Callable, Iterator
from concurrent import futures
import contextlib
import dataclasses
import io
import os
import pathlib
import shutil
import stat
import tempfile
import threading
import time
from typing import Any
import zipfile

from absl import logging
from etils import epath
import numpy as np

from prompt_tuning import prompt_files
from prompt_tuning.data.release import zip_files
from prompt_tuning.inference.engine import Engine
from prompt_tuning.inference.requests import TunedPrompt
from prompt_tuning.interop import peft_adapters
from prompt_tuning.serving import errors
from prompt_tuning.serving.errors import ApiError
from prompt_tuning.tuning_jobs import owners
from t5x.files import storage

# The maximum sizes of an adapter's files, unpacked, in bytes.
_MAX_BYTES = {
  peft_adapters.CONFIG: 64 * 2**10,
  peft_adapters.WEIGHTS: 64 * 2**20,
  peft_adapters.OLD_WEIGHTS: 64 * 2**20,
}
_MAX_ENTRIES = 1000
# The seconds between looks at the folder, on a disk and in a bucket; and the
# fraction of them between looks for unknown names.
_REFRESH_SECONDS = 1.0, 10.0
_PAUSE = 0.1
# Seconds that a request waits for a look at the folder: for a known prompt, and
# for an unknown prompt or a change.
_PATIENCE, _LONGEST = 0.5, 10.0
# About this many files are checked again in a look, because each check lets
# other threads run.
_STATS = 300
# The stamp of a file that could not be read, but may be readable later.
_UNREAD = ()

# A file's prompt (None if it does not fit this model; the log says why), and
# the file's stamp.
_Entry = tuple[TunedPrompt | None, tuple[Any, ...]]


class PromptStore:
  """The prompts of a folder or bucket that other processes may write to, too.

  Prompts are kept in memory; a file that changes is read again. Methods can be
  called from any thread. A single thread looks at the folder, one look at a
  time, so neither a slow folder nor wrong names delay other requests.
  """

  def __init__(self, folder: str | os.PathLike[str], engine: Engine, base: str):
    """Reads the folder, or creates it.

    Args:
      folder: The folder; its files NAME.safetensors and NAME.npy are prompts.
      engine: The engine that answers with them.
      base: The name of the base model, which no prompt may have.
    """
    self.folder = epath.Path(folder)
    self.folder.mkdir(parents=True, exist_ok=True)
    self._period = _REFRESH_SECONDS[storage.is_bucket(folder)]
    self._engine = engine
    self._base = base
    self._lock = threading.Lock()
    self._entries: dict[str, _Entry] = {}
    # The files at the last look, each with its inode and its stamp.
    self._seen: dict[str, tuple[int, tuple[Any, ...]]] = {}
    self._turn = 0
    # The last look: its start, and the error that ended it, if any.
    self._refreshed = -float("inf")
    self._failure: Exception | None = None
    self._thread = futures.ThreadPoolExecutor(1, "prompts")
    self._look = futures.Future()
    self._look.set_result(None)
    self.refresh()

  def close(self) -> None:
    """Ends the thread."""
    self._thread.shutdown(wait=False, cancel_futures=True)

  def refresh(self, seconds: float | None = None) -> None:
    """Reads new files of the folder, and forgets removed ones.

    Raises:
      Exception: if the folder cannot be listed within the seconds.
    """
    try:
      self._next_look().result(seconds)
    except TimeoutError:
      raise TimeoutError("the folder of prompts does not answer") from None
    if self._failure is not None:
      raise self._failure

  def _next_look(self) -> futures.Future[None]:
    """Returns a look at the folder that has not begun; callers share it."""
    with self._lock:
      if self._look.running() or self._look.done():
        self._look = self._thread.submit(self._try_to_refresh)
      return self._look

  def _try_to_refresh(self) -> None:
    """Refreshes, or keeps the known prompts if the folder cannot be listed."""
    self._refreshed = time.monotonic()
    try:
      files, chosen, found = self._files(), {}, {}
      for name in sorted(files):  # NAME.safetensors comes after NAME.npy.
        stem, suffix = os.path.splitext(name)
        if suffix in prompt_files.SUFFIXES and owners.STEM.fullmatch(stem):
          chosen[stem] = name
      for stem, name in chosen.items():
        known, stamp = self._entries.get(stem), (name, *files[name])
        if known is None or known[1] != stamp:
          known = self._read(self.folder / name, known, stamp)
        found[stem] = known
      self._entries, self._failure = found, None
    except Exception as error:  # Buckets raise errors of many kinds.
      self._failure = error
      logging.error("%s cannot be listed: %r", self.folder, error)

  def all(self, tenant: str | None = None) -> dict[str, TunedPrompt]:
    """Returns the prompts of the last look, by the tenant's names for them."""
    found = {}
    for stem, (prompt, _) in self._entries.items():
      name = owners.shown(stem, tenant)
      if prompt and name is not None:
        found[name] = prompt  # NAME@OWNER comes after NAME, and hides it.
    return found

  def created(self, stem: str) -> int | None:
    """Returns the time of a prompt's file in seconds since 1970, if known."""
    _, stamp = self._entries.get(stem, (None, _UNREAD))
    return stamp[1] // 10**9 if stamp[1:] else None

  async def look(self) -> None:
    """Looks at the folder if a look is due; does not wait for a slow folder."""
    age = time.monotonic() - self._refreshed
    if age > self._period and self._look.done():
      look = asyncio.wrap_future(self._next_look())
      await asyncio.wait([look], timeout=_PATIENCE)

  @property
  def problem(self) -> str | None:
    """The reason that prompts may be missing or old, or None."""
    age = time.monotonic() - self._refreshed
    if not self._look.done() and age > _PATIENCE:
      return f"The folder of prompts has not answered for {age:.0f} seconds."
    if self._failure is not None:
      reason = errors.reason(self._failure)
      return f"The folder of prompts cannot be listed: {reason}."
    unread = sum(stamp == _UNREAD for _, stamp in self._entries.values())
    if unread:  # Names are private to their owners, and probes have no key.
      return f"{unread} prompts cannot be read; the log names them."
    return None

  def usage(self, tenant: str | None, new: str) -> collections.Counter[str]:
    """Returns the bytes and number of a tenant's prompts other than `new`."""
    own = [
      prompt.array.nbytes
      for stem, (prompt, _) in self._entries.items()
      if prompt
      and owners.owns(tenant, stem)
      and owners.split(stem)[:2] != owners.split(new)[:2]
    ]
    return collections.Counter(bytes=sum(own), files=len(own))

  def _entry(self, name: str, tenant: str | None) -> _Entry | tuple[None, None]:
    """Returns the entry of the last look that a tenant means by a name."""
    entries = self._entries
    stems = owners.meant(name, tenant)
    return next((entries[x] for x in stems if x in entries), (None, None))

  async def find(self, name: str, tenant: str | None = None) -> TunedPrompt:
    """Returns a prompt; an unknown name waits for a look at the folder.

    Raises:
      ApiError: if the tenant has no prompt of this name, or the folder cannot
        be read now.
    """
    known, asked = self._entry(name, tenant)[0], time.monotonic()
    if known is not None:
      await self.look()
      return self.get(name, tenant)
    # Requests with unknown names share a look, after a pause.
    due = self._refreshed + _PAUSE * self._period
    await asyncio.sleep(max(0.0, due - asked))
    look = self._look if self._refreshed > asked else self._next_look()
    await asyncio.wait([asyncio.wrap_future(look)], timeout=_LONGEST)
    if not look.done():
      raise errors.not_ready(self.problem or "The prompts could not be listed.")
    return self.get(name, tenant)

  def get(self, name: str, tenant: str | None = None) -> TunedPrompt:
    """Returns a prompt as of the last look.

    Raises:
      ApiError: as for `find`.
    """
    prompt, stamp = self._entry(name, tenant)
    if prompt is not None:
      return prompt
    if self._failure is not None if stamp is None else stamp == _UNREAD:
      raise errors.not_ready(
        f"The prompt {name[:80]!r} could not be found or read."
      )
    message = f"There is no model {name[:80]!r}: see GET /v1/models."
    raise ApiError(404, message, "model_not_found", "model")

  def put(
    self,
    name: str,
    content: bytes,
    tenant: str | None = None,
    is_shared: bool = False,
    room: Callable[
      [TunedPrompt], contextlib.AbstractContextManager[Any]
    ] = contextlib.nullcontext,
  ) -> TunedPrompt:
    """Saves a prompt, which replaces the tenant's older one with that name.

    Args:
      name: The prompt's name.
      content: A `.safetensors` or `.npy` file, or a zip archive of a PEFT
        adapter.
      tenant: The prompt's owner; None without keys.
      is_shared: Whether other tenants may use it.
      room: Refuses the prompt, or reserves storage while it is saved.

    Raises:
      ValueError: if the content is not a prompt for the model, or the name is
        not allowed.
    """
    with tempfile.TemporaryDirectory(prefix="prompt_") as scratch:
      model = self._engine.model.checkpoint
      array, metadata = _parse(content, pathlib.Path(scratch), model)
    owners.check(name)
    stem = owners.stem(name, tenant, is_shared)
    prompt = self._checked(stem, array, metadata)
    with room(prompt):
      path = self.folder / f"{stem}.safetensors"
      prompt_files.save_prompt(path, array, metadata)
      (self.folder / f"{stem}.npy").unlink(missing_ok=True)
      other = owners.stem(name, tenant, not is_shared)
      if other != stem:
        self._remove(other)
      self.refresh(_LONGEST)
    return prompt

  def delete(self, stem: str) -> None:
    """Removes a prompt and its file, if there is one."""
    self._remove(stem)
    self.refresh(_LONGEST)

  def _files(self) -> dict[str, tuple[Any, ...]]:
    """Returns the folder's files, each with a stamp that changes with the file.

    Replaced files, which have a new inode, are checked in every look; others
    are checked in turn.
    """
    if storage.is_bucket(self.folder):
      return _objects(self.folder)
    turns, seen = 1 + len(self._seen) // _STATS, {}
    self._turn = (self._turn + 1) % turns
    for entry in os.scandir(self.folder):
      name, inode = entry.name, entry.inode()
      known = self._seen.get(name)
      if known and known[0] == inode and hash(name) % turns != self._turn:
        seen[name] = known
        continue
      try:
        found = entry.stat()
        # With a coarse clock, the size shows that a file was half written.
        stamp = (found.st_mtime_ns, found.st_ino, found.st_size)
        if stat.S_ISREG(found.st_mode):  # Opening a pipe may never end.
          seen[name] = inode, stamp
      except OSError:  # A link to itself, for instance: `_read` reports it.
        seen[name] = inode, _UNREAD
    self._seen = seen
    return {name: stamp for name, (_, stamp) in seen.items()}

  def _remove(self, stem: str) -> None:
    for suffix in prompt_files.SUFFIXES:
      (self.folder / f"{stem}{suffix}").unlink(missing_ok=True)

  def _read(
    self, path: epath.Path, known: _Entry | None, stamp: tuple[Any, ...]
  ) -> _Entry:
    """Reads a file; an unreadable one does not affect the others."""
    try:
      prompt = self._checked(path.stem, *prompt_files.load_prompt(path))
    except ValueError as error:
      logging.warning("%s is not served: %s", path, error)
      return None, stamp
    except Exception as error:  # Errors of disks and buckets may be temporary.
      if known is None or known[1] != _UNREAD:
        logging.warning("%s cannot be read: %r", path, error)
      return known[0] if known else None, _UNREAD
    return prompt, stamp

  def _checked(
    self,
    stem: str,
    array: np.ndarray,
    metadata: prompt_files.PromptMetadata | None,
  ) -> TunedPrompt:
    """Returns a prompt after checking its name and that it fits the model."""
    if owners.split(stem)[0] == self._base:
      raise ValueError(f"{self._base} is the name of the base model.")
    if metadata and os.path.isabs(metadata.base_model or ""):
      # Do not reveal a path on this machine.
      metadata = dataclasses.replace(metadata, base_model=None)
    prompt = TunedPrompt(array, metadata, name=stem)
    self._engine.model.prompt_array(prompt)  # Refuses another model's prompt.
    self._engine.check_prompt(prompt)
    return prompt


def _objects(folder: epath.Path) -> dict[str, tuple[Any, ...]]:
  """Returns the objects of a folder in a bucket, each with a stamp."""
  found, system = {}, storage.file_system(folder)
  system.invalidate_cache()
  with contextlib.suppress(FileNotFoundError):  # The folder is empty.
    for entry in system.ls(os.fspath(folder), detail=True):  # One request.
      time_ns = int(1e9 * entry["mtime"].timestamp()) if "mtime" in entry else 0
      name = entry["name"].rpartition("/")[2]
      found[name] = (time_ns, entry.get("generation"))
  return found


def _parse(
  content: bytes, scratch: pathlib.Path, model: str
) -> tuple[np.ndarray, prompt_files.PromptMetadata | None]:
  """Reads an upload for a model; its first bytes determine the format.

  Raises:
    ValueError: if it is not a prompt; the message omits the scratch folder.
  """
  try:
    if content.startswith(b"PK"):
      for name, part in _adapter_files(content):
        (scratch / name).write_bytes(part)
      # The path that a client names is not read.
      return peft_adapters.load_adapter(scratch, model)
    is_numpy = content.startswith(np.lib.format.MAGIC_PREFIX)
    path = scratch / f"prompt{'.npy' if is_numpy else '.safetensors'}"
    path.write_bytes(content)
    return prompt_files.load_prompt(path)
  except ValueError as error:
    message = str(error).replace(f"{scratch}{os.sep}", "")
    raise ValueError(message.replace(str(scratch), "the upload")) from None


def _adapter_files(content: bytes) -> Iterator[tuple[str, bytes]]:
  """Yields the files of an adapter in a zip archive, in any of its folders."""
  seen, upload = set(), "the upload"
  # `zipfile` makes an object for each entry when it opens an archive.
  if content.count(zipfile.stringCentralDir) > _MAX_ENTRIES:
    raise ValueError(f"Expected at most {_MAX_ENTRIES} files in the archive.")
  with zip_files.opened(io.BytesIO(content), upload) as archive:
    for info in archive.infolist():
      name = pathlib.PurePosixPath(info.filename).name
      if (most := _MAX_BYTES.get(name)) is None:
        continue
      # Many files, each small when packed, would take forever.
      if name in seen:
        raise ValueError(f"{upload}: expected one adapter, got {name} twice.")
      seen.add(name)
      with zip_files.member(archive, info, most, upload) as file:
        yield name, file.read(most)


def adapter_archive(prompt: TunedPrompt, model: str) -> bytes:
  """Returns a model's prompt as a zip archive of a PEFT adapter."""
  with tempfile.TemporaryDirectory(prefix="prompt_") as scratch:
    folder = f"{scratch}/adapter"
    arguments = folder, prompt.array, prompt.metadata
    peft_adapters.save_adapter(*arguments, model=model)
    path = shutil.make_archive(folder, "zip", folder)
    return pathlib.Path(path).read_bytes()
