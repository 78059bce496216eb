"""Tenants, which are the names of keys, and their limits and quotas."""

import collections
from collections.abc import Callable, Iterator, Mapping
import contextlib
import contextvars
import dataclasses
import hashlib
import math
import os
import pathlib
import threading
import time

from prompt_tuning.serving.errors import ApiError
from prompt_tuning.tuning_jobs import owners
from t5x.files import parsing

# The tenant of the running request. It is None without keys, and then owns
# everything.
current: contextvars.ContextVar[str | None] = contextvars.ContextVar(
  "tenant", default=None
)
# The number of clients whose rates are remembered.
_CLIENTS = 10_000
# Storage must be freed by deleting, whereas a job ends by itself.
_STATUS = {"bytes": 507, "files": 507, "jobs": 429}


def read_keys(path: str | os.PathLike[str]) -> dict[str, str]:
  """Reads a file of keys, with "KEY NAME" on each line; "#" starts a comment.

  Keys with the same name belong to one tenant. A key without a name is a
  separate tenant, named by the start of its digest.

  Returns:
    SHA-256 of each key -> its tenant.

  Raises:
    ValueError: if a line is wrong, or the file has no key.
  """
  with parsing.of(path, "a file of keys", "Save it as UTF-8."):
    lines = pathlib.Path(path).read_text(encoding="utf-8-sig").splitlines()
  tenants = {}
  for number, line in enumerate(lines, 1):
    match line.partition("#")[0].split():
      case []:
        continue
      case [key] if key.isascii():
        tenants[digest(key)] = digest(key)[:12]
      case [key, name] if key.isascii() and owners.OWNER.fullmatch(name):
        tenants[digest(key)] = name
      case _:  # The message must not contain a key.
        raise ValueError(
          f"Expected a key in line {number} of {path}, of ASCII characters, "
          "and perhaps a name of at most 32 letters, digits, '_' and '-'."
        )
  if not tenants:
    raise ValueError(f"Expected keys in {path}, one per line, got none.")
  return tenants


def digest(key: str) -> str:
  """Returns a digest; the time to compare digests reveals nothing of a key."""
  return hashlib.sha256(key.encode()).hexdigest()


@dataclasses.dataclass(frozen=True)
class Limits:
  """The limits for clients.

  Attributes:
    keys: SHA-256 of each accepted key -> tenant, or None if no key is needed.
    requests_per_minute: The limit of each tenant or, without keys, of each
      address, and of wrong keys from an address. 0: unlimited.
    stored: The limits on "bytes", "files" and "jobs" of a tenant; 0: unlimited.
    body_bytes: The maximum size of a request.
    upload_bytes: The maximum size of an uploaded file.
    answer_seconds: The time for an answer, or for a whole stream.
    hosts: The names that the server answers to, beside addresses, or None for
      any name. Another website can point its own name to this machine.
  """

  keys: Mapping[str, str] | None = None
  requests_per_minute: int = 0
  stored: Mapping[str, int] = dataclasses.field(default_factory=dict)
  body_bytes: int = 2**20
  upload_bytes: int = 2**26
  answer_seconds: float = 120.0
  hosts: frozenset[str] | None = None


class Quotas:
  """The requests, storage and jobs that each tenant may have.

  Without keys, all clients share the storage, and each address has a rate.

  Attributes:
    limits: The limits of each tenant.
  """

  def __init__(self, limits: Limits):
    """Keeps the limits."""
    self.limits = limits
    self._lock = threading.Lock()
    # Client -> (requests that it may send, the time of that number).
    self._allowed: collections.OrderedDict[str, tuple[float, float]] = (
      collections.OrderedDict()
    )
    # Tenant -> bytes, files and jobs that it is storing now.
    self._reserved: dict[str | None, collections.Counter[str]] = (
      collections.defaultdict(collections.Counter)
    )

  def count_request(self, client: str) -> None:
    """Takes a request from the client's bucket, which fills with time.

    Raises:
      ApiError: if the bucket is empty.
    """
    if not (most := self.limits.requests_per_minute):
      return
    now = time.monotonic()
    left, then = self._allowed.pop(client, (float(most), now))
    left = min(float(most), left + (now - then) * most / 60)
    is_allowed = left >= 1
    self._allowed[client] = (left - is_allowed, now)
    if len(self._allowed) > _CLIENTS:
      self._allowed.popitem(last=False)
    if not is_allowed:
      seconds = math.ceil((1 - left) * 60 / most)
      raise _exceeded(429, f"{most} requests per minute", seconds)

  @contextlib.contextmanager
  def room(
    self, used: Callable[[], collections.Counter[str]], **new: int
  ) -> Iterator[None]:
    """Reserves room for what the tenant stores inside the context.

    Args:
      used: Returns the bytes, files and jobs that the tenant has.
      **new: Bytes, files and jobs that it adds.

    Raises:
      ApiError: if the sum exceeds its quotas.
    """
    with self._lock:
      reserved = self._reserved[current.get()]
      reserved.update(new)
      wanted = reserved.copy()
    try:
      # In this order, so that a concurrent addition is in at least one of the
      # two; for a moment it is in both.
      wanted.update(used())
      for name, most in self.limits.stored.items():
        if most and new.get(name) and wanted[name] > most:
          raise _exceeded(_STATUS[name], f"{most} {name} of one key", 60)
      yield
    finally:
      with self._lock:
        reserved.subtract(new)


def _exceeded(status: int, expected: str, seconds: int) -> ApiError:
  """Returns the error for a quota; 429 also gives the time of a retry."""
  headers = {"Retry-After": str(seconds)} if status == 429 else None
  code = "rate_limit_exceeded" if status == 429 else "quota_exceeded"
  return ApiError(status, f"Expected at most {expected}.", code, None, headers)
