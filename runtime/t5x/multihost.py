"""Agreement between the processes of a run, which all end together."""

from collections.abc import Callable, Mapping
import contextlib
import ctypes
import glob
import importlib.util
import json
import os
import secrets
import signal
import socket
import sys
import threading
import time
from typing import Any, NamedTuple

import jax
from jax._src import distributed  # JAX's store of keys has no public name.
from jax.experimental import multihost_utils
import numpy as np

# Seconds that a process may take to report its own error after another process
# failed, perhaps with the same error.
GRACE_SECONDS = 0.5
# Seconds for the processes to connect, once all of them run.
_CONNECT_SECONDS = 60
# A machine that is silent for 5 s is probed, and counts as lost 15 s later.
_PROBES = {"TCP_KEEPIDLE": 5, "TCP_KEEPINTVL": 5, "TCP_KEEPCNT": 3}
_DONE, _FAILED = b"done", "failed."
_MOST_BYTES = 1000


def from_first_process(value: Any) -> Any:
  """Returns the first process's JSON value in all processes."""
  if jax.process_count() == 1:
    return value
  text = np.frombuffer(json.dumps(value).encode(), np.uint8)
  size = int(multihost_utils.broadcast_one_to_all(np.int32(len(text))))
  # The others need an array of the same size; its content does not matter.
  text = multihost_utils.broadcast_one_to_all(np.resize(text, size))
  return json.loads(text.tobytes())


def wait_for_all(what: str) -> None:
  """Waits until every process gets here; `what` names the place."""
  if jax.process_count() > 1:
    multihost_utils.sync_global_devices(what)


def is_true_anywhere(value: bool) -> bool:
  """Returns whether a value is true in any process; all must call this."""
  if jax.process_count() == 1:
    return value
  return bool(multihost_utils.process_allgather(np.bool_(value)).any())


def is_one_of_several() -> bool:
  """Returns whether this process was started together with others.

  That is the case on a TPU VM, and in an `srun` step with several tasks.
  `jax.distributed.initialize` finds out where the others are.
  """
  # libtpu is also installed where programs are only compiled.
  is_on_tpu = (
    "tpu" in os.environ.get("JAX_PLATFORMS", "tpu")
    and importlib.util.find_spec("libtpu") is not None
    and bool(glob.glob("/dev/accel[0-9]*") or glob.glob("/dev/vfio/[0-9]*"))
  )
  # A batch script without srun is not a step. A shell that salloc opened is a
  # step with one task, although SLURM_NTASKS is the number that was granted.
  has_step = "SLURM_STEP_NODELIST" in os.environ
  tasks = int(os.environ.get("SLURM_STEP_NUM_TASKS", "1"))
  return is_on_tpu or (has_step and tasks > 1)


class Peer(NamedTuple):
  """Another process of the run: its name, and a connection to it."""

  name: str
  connection: socket.socket

  def send(self, word: bytes) -> None:
    """Sends a word, unless the process is gone."""
    with contextlib.suppress(OSError):
      self.connection.sendall(word)


class Watch:
  """A watch over the other processes of a run: if one dies, all of them end.

  Each process has a connection to the first one, which the system closes if
  either of the two dies. JAX alone would wait for minutes, and then abort
  without naming the lost process.

  Attributes:
    on_loss: Called with the reason before the process ends, only in the first
      of the remaining processes.
  """

  def __init__(
    self, index: int, peers: Mapping[int, Peer], end: Callable[[str], Any]
  ):
    """Starts the watch.

    Args:
      index: The index of this process.
      peers: All other processes for the first one, and only the first process
        for every other one.
      end: Ends this process, given the reason.
    """
    self.on_loss: list[Callable[[str], Any]] = []
    self._index, self._peers, self._end = index, peers, end
    self._ending, self._has_failed = threading.Lock(), False
    self._done = {number: threading.Event() for number in peers}
    for number in peers:
      listening = threading.Thread(target=self._listen, args=(number,))
      listening.daemon = True
      listening.start()

  def _listen(self, number: int) -> None:
    """Waits for the last message of another process, or for its death."""
    word, peer = b"", self._peers[number]
    with contextlib.suppress(OSError):
      word = peer.connection.recv(_MOST_BYTES)
    if word == _DONE:
      self._done[number].set()
      return
    # The first process tells the others which one it has lost.
    reason = word.decode() or f"{peer.name} was lost."
    if reason.endswith(_FAILED):
      time.sleep(GRACE_SECONDS)
    if not self._ending.acquire(blocking=False):
      return
    for other in self._peers.values():
      other.send(reason.encode())
    text = (
      f"{reason} This process ends too. Start all of them again: the same "
      "command resumes the run."
    )
    self._end_after(20 * GRACE_SECONDS, text)
    first_left = 1 if number == 0 and not word else 0
    for write in self.on_loss if self._index == first_left else ():
      with contextlib.suppress(Exception):
        write(reason)
    self._end(text)

  def _end_after(self, seconds: float, text: str) -> None:
    """Ends this process if it hangs while it exits."""
    timer = threading.Timer(seconds, self._end, [text])
    timer.daemon = True
    timer.start()

  def fail(self) -> None:
    """Ends the others because this process failed, and this one if it hangs.

    While it exits, it may wait for the others.
    """
    if not self._has_failed:
      # The loss of another process makes much fail here. Meanwhile the watch
      # notices the loss, and ends this process.
      self._has_failed = True
      time.sleep(4 * GRACE_SECONDS)
    if self._ending.acquire(blocking=False):
      for peer in self._peers.values():
        peer.send(f"{_name(self._index)} {_FAILED}".encode())
      text = "This process failed, and could not end by itself."
      self._end_after(10 * GRACE_SECONDS, text)

  def close(self) -> None:
    """Waits until all processes are done; after that they may end."""
    # The first process sends its word last.
    if self._index:
      self._peers[0].send(_DONE)
    for done in self._done.values():
      done.wait()
    for peer in self._peers.values() if self._index == 0 else ():
      peer.send(_DONE)


def connect(
  index: int, count: int, address: str, store: Any
) -> dict[int, Peer]:
  """Connects the first process with each of the others.

  Args:
    index: The index of this process.
    count: The number of processes.
    address: The host of the first one.
    store: JAX's store of keys.

  Raises:
    OSError: if one of them does not connect.
  """
  if index:
    place = store.blocking_key_value_get("watch", 1000 * _CONNECT_SECONDS)
    port, token, name = json.loads(place)
    first = socket.create_connection((address, port), _CONNECT_SECONDS)
    hello = json.dumps([token, index, _name(index)]).encode()
    first.sendall(hello.ljust(_MOST_BYTES))
    return {0: Peer(name, _kept_alive(first))}
  peers: dict[int, Peer] = {}
  token, has_both = secrets.token_hex(16), socket.has_dualstack_ipv6()
  with socket.create_server(
    ("", 0),
    family=socket.AF_INET6 if has_both else socket.AF_INET,
    backlog=count,
    dualstack_ipv6=has_both,
  ) as server:
    server.settimeout(_CONNECT_SECONDS)
    place = server.getsockname()[1], token, _name(0)
    store.key_value_set("watch", json.dumps(place))
    while len(peers) < count - 1:
      connection, _ = server.accept()
      connection.settimeout(_PROBES["TCP_KEEPIDLE"])
      with contextlib.suppress(OSError, TypeError, ValueError):
        # Others, from outside the run, are ignored.
        hello = connection.recv(_MOST_BYTES, socket.MSG_WAITALL)
        told, number, name = json.loads(hello)
        if secrets.compare_digest(told, token):
          peers[number] = Peer(name, _kept_alive(connection))
          continue
      connection.close()
  return peers


def _name(index: int) -> str:
  return f"Process {index} on {socket.gethostname()}"


def _kept_alive(connection: socket.socket) -> socket.socket:
  connection.settimeout(None)
  connection.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
  for name, value in _PROBES.items():
    if hasattr(socket, name):  # macOS has another name for the first.
      connection.setsockopt(socket.IPPROTO_TCP, getattr(socket, name), value)
  return connection


# The watch of this process, if it is one of several.
watch: Watch | None = None


def initialize(*given: Any, timeout: int) -> None:
  """Joins the processes of a run, which then end together.

  Args:
    *given: Address of the first process, number of processes, and index of this
      one; None for values that JAX finds out itself.
    timeout: Seconds to wait for the others.

  Raises:
    ConnectionError: if some of them do not connect.
  """
  global watch
  try:
    jax.distributed.initialize(*given, initialization_timeout=timeout)
    state = distributed.global_state
    index, count = state.process_id, state.num_processes
    address = str(state.coordinator_address).rpartition(":")[0].strip("[]")
    peers = connect(index, count, address, state.client)
  except (RuntimeError, OSError) as error:
    raise ConnectionError(
      f"The processes did not find each other within {timeout} s: "
      f"{str(error).splitlines()[0]}. Start all of them, with the same address "
      "and count; --initialization_timeout allows more time."
    ) from error
  watch = Watch(index, peers, _exit)
  # Without the first process, JAX aborts at once. Its thread sleeps meanwhile:
  # this C function, as a handler, gets the signal's number, 6, as its seconds.
  c = ctypes.CDLL(None)
  c.signal.argtypes = [ctypes.c_int, ctypes.c_void_p]
  c.signal(signal.SIGABRT, ctypes.cast(c.sleep, ctypes.c_void_p))


def _exit(reason: str) -> None:
  print(f"\nError: {reason}", file=sys.stderr, flush=True)
  os._exit(1)  # A normal exit would wait for the others.


def fail() -> None:
  """Ends the other processes, if there are any, because this one failed."""
  if watch is not None:
    watch.fail()


def leave(status: int) -> None:
  """Ends this process if it is one of several; 0 waits until all are done."""
  if watch is not None and status == 0:
    watch.close()
  elif watch is not None:
    time.sleep(2 * GRACE_SECONDS)  # The others need the first process.
    sys.stdout.flush()
    os._exit(status)
