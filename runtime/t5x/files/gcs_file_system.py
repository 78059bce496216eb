"""A more patient gcsfs, for folders that other programs write to as well.

`t5x.files.storage` registers it with `fsspec` for `gs://`, so that
etils' `epath` uses it.
"""

import asyncio
from collections.abc import Sequence
import contextlib
import inspect
import json
import random
import re
import time
from typing import Any
import urllib.parse

import aiohttp
from gcsfs import core, retry

from t5x.files import failures

# Seconds of retries with an overloaded server, and with one that has never
# answered and may be unreachable.
PATIENCE_SECONDS = 300.0
DOOR_SECONDS = 10.0
_FIRST_WAIT, _LONGEST_WAIT = 0.1, 16.0
# A single attempt; gcsfs itself gives up after six.
_ask_once: Any = inspect.unwrap(core.GCSFileSystem._request)


def _object(path: str, args: Sequence[Any], content: bytes | None) -> str:
  """Returns a request's bucket and, if it has one, its object."""
  if args:
    return "/".join(map(str, args))
  # An upload's object is in its path, or in its first lines.
  bucket, _, query = path.partition("/b/")[2].partition("/o")
  if match := re.search(r"[?&]name=([^&]*)", query):
    return f"{bucket}/{urllib.parse.unquote(match[1])}"
  found = re.search(rb'"name": (".*?")[,}]', (content or b"")[:2000])
  return f"{bucket}/{json.loads(found[1])}" if found else bucket


class FileSystem(core.GCSFileSystem):
  """A file system of Cloud Storage that caches no listings."""

  # gcsfs does not annotate it.
  call: Any
  # Whether the server ever answered, and whether an earlier request gave up.
  _was_reached = _was_given_up = False

  def __init__(self, *args: Any, **kwargs: Any):
    """Takes the arguments of `gcsfs.GCSFileSystem`."""
    # TensorStore and other hosts write to the bucket too.
    super().__init__(*args, **{**kwargs, "use_listings_cache": False})

  async def _request(
    self, method: str, path: str, *args: Any, **kwargs: Any
  ) -> Any:
    words = (method, path, *args)
    try:
      return await self._ask(*words, **kwargs)
    except Exception as error:
      name = f"gs://{_object(path, args, kwargs.get('data'))}"
      failure = failures.explain(error, name)
      if failure is None and retry.is_retriable(error):
        failure = failures.from_server(name, f"fails: {error}")
      if failure is None:
        raise
      raise failure from error

  async def _ask(self, *args: Any, **kwargs: Any) -> Any:
    """Retries until the server answers or `PATIENCE_SECONDS` are over."""
    start, wait = time.monotonic(), _FIRST_WAIT
    while (waited := time.monotonic() - start) < PATIENCE_SECONDS:
      try:
        answer = await _ask_once(self, *args, **kwargs)
        self._was_reached = True
        return answer
      except aiohttp.ClientConnectionError as error:
        if not self._was_reached and (
          self._was_given_up or waited > DOOR_SECONDS
        ):
          self._was_given_up = True
          raise ConnectionError(
            f"the server of Cloud Storage cannot be reached ({error})"
          ) from error
      except Exception as error:
        self._was_reached = True
        if not retry.is_retriable(error):
          raise
      await asyncio.sleep(random.uniform(wait / 2, wait))
      wait = min(2 * wait, _LONGEST_WAIT)
    return await _ask_once(self, *args, **kwargs)

  # A bucket has no folders, and no caller wants to create a bucket.
  def mkdir(self, path: str, *args: Any, **kwargs: Any) -> None:
    del path, args, kwargs

  def makedirs(self, path: str, exist_ok: bool = False) -> None:
    del path, exist_ok

  async def _rm_file(self, path: str, **kwargs: Any) -> None:
    # The answer to the first attempt may have been lost.
    with contextlib.suppress(FileNotFoundError):
      await super()._rm_file(path, **kwargs)

  def read_version(self, path: str) -> tuple[bytes, str] | None:
    """Returns the content and the generation of an object, or None."""
    bucket, name, _ = self.split_path(path)
    try:
      headers, content = self.call(
        "GET", "b/{}/o/{}", bucket, name, alt="media"
      )
    except FileNotFoundError:
      return None
    return content, headers["X-Goog-Generation"]

  def write_version(self, path: str, content: bytes, replaces: str) -> str:
    """Writes an object if it has a given generation.

    Args:
      path: The path of the object.
      content: The new content.
      replaces: The generation; "0" if the object must not exist.

    Returns:
      The new generation.

    Raises:
      FileExistsError: if the object has another generation.
    """
    bucket, name, _ = self.split_path(path)
    # The first part names the object, the second is its content.
    parts = (json.dumps({"name": name}).encode(), content)
    body = b"".join(
      b"--part\r\nContent-Type: application/json\r\n\r\n%s\r\n" % part
      for part in parts
    )
    try:
      answer = self.call(
        "POST",
        f"{self._location}/upload/storage/v1/b/{bucket}/o",
        uploadType="multipart",
        data=body + b"--part--",
        headers={"Content-Type": "multipart/related; boundary=part"},
        ifGenerationMatch=replaces,
        json_out=True,
      )
    except FileExistsError:
      # The first attempt may have succeeded, with its answer lost.
      if (there := self.read_version(path)) and there[0] == content:
        return there[1]
      raise
    return answer["generation"]

  def remove_version(self, path: str, generation: str) -> None:
    """Deletes an object if it still has the given generation."""
    bucket, name, _ = self.split_path(path)
    with contextlib.suppress(FileExistsError, FileNotFoundError):
      self.call(
        "DELETE", "b/{}/o/{}", bucket, name, ifGenerationMatch=generation
      )
