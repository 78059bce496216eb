"""Tenants: the names of keys, the limits, and the quotas of each tenant."""

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

# The tenant of the running request. None, without keys, owns everything.
current: contextvars.ContextVar[str | None] = contextvars.ContextVar(
  "tenant", default=None
)
# The number of clients whose rates are remembered.
_CLIENTS = 10_000
# Storage is freed by deleting; a job ends by itself.
_STATUS = {"bytes": 507, "files": 507, "jobs": 429}


def read_keys(path: str | os.PathLike[str]) -> dict[str, str]:
  """Reads a file of keys, "KEY NAME" on a line; "#" starts a comment.

  Keys of one name are one tenant's. A key without a name is a tenant by itself,
  named by the start of its digest.

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
  """Returns a digest; comparing it takes a time that tells nothing of a key."""
  return hashlib.sha256(key.encode()).hexdigest()


@dataclasses.dataclass(frozen=True)
class Limits:
  """The limits that clients have.

  Attributes:
    keys: SHA-256 of the keys that are accepted -> tenant; None: no key is
      needed.
    requests_per_minute: For each tenant, or, without keys, for each address;
      the same for wrong keys from an address. 0: unlimited.
    stored: The limits on "bytes", "files" and "jobs" of a tenant; 0: unlimited.
    body_bytes: The maximum size of a request.
    upload_bytes: The maximum size of an uploaded file.
    answer_seconds: The time for an answer, or for the whole of a stream.
    hosts: The names that the server answers to, beside addresses; None: any.
      Another website can point its own name to this machine.
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
    limits: The limits of each.
  """

  def __init__(self, limits: Limits):
    """Keeps the limits."""
    self.limits = limits
    self._lock = threading.Lock()
    # Client -> (requests that it may send, at this time).
    self._allowed: collections.OrderedDict[str, tuple[float, float]] = (
      collections.OrderedDict()
    )
    # Tenant -> bytes, files and jobs that it is about to store.
    self._reserved: dict[str | None, collections.Counter[str]] = (
      collections.defaultdict(collections.Counter)
    )

  def count_request(self, client: str) -> None:
    """Counts a request by a bucket that fills with time.

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
    """Reserves room for what the tenant stores meanwhile.

    Args:
      used: Returns what the tenant has.
      **new: Bytes, files and jobs that it adds.

    Raises:
      ApiError: if that is more than its quotas.
    """
    with self._lock:
      reserved = self._reserved[current.get()]
      reserved.update(new)
      wanted = reserved.copy()
    try:
      # In this order: a rival's are in one of the two, for a moment in both.
      wanted.update(used())
      for name, most in self.limits.stored.items():
        if most and new.get(name) and wanted[name] > most:
          raise _exceeded(_STATUS[name], f"{most} {name} of one key", 60)
      yield
    finally:
      with self._lock:
        reserved.subtract(new)


def _exceeded(status: int, expected: str, seconds: int) -> ApiError:
  """Returns the error for a quota; only a rate or a job frees it by itself."""
  headers = {"Retry-After": str(seconds)} if status == 429 else None
  code = "rate_limit_exceeded" if status == 429 else "quota_exceeded"
  return ApiError(status, f"Expected at most {expected}.", code, None, headers)
