"""Tests that the processes of a run end together when one is lost."""

from concurrent import futures
import json
import queue
import socket
import threading
import time

import pytest

from t5x import multihost


@pytest.fixture(autouse=True)
def _short(monkeypatch):
  monkeypatch.setattr(multihost, "GRACE_SECONDS", 0.1)


def _pair():
  """Returns the two ends of a connection."""
  with socket.create_server(("localhost", 0)) as server:
    there = socket.create_connection(server.getsockname())
    return server.accept()[0], there


@pytest.fixture
def three():
  """Three watches, their connections, their reasons to end and the writers."""
  ended, written = queue.Queue(), []
  pairs = {number: _pair() for number in (1, 2)}
  peers = {0: {}}
  for number, (here, there) in pairs.items():
    peers[0][number] = multihost.Peer(f"Process {number}", here)
    peers[number] = {0: multihost.Peer("Process 0", there)}
  watches = [
    multihost.Watch(i, peers[i], lambda why, i=i: ended.put((i, why)))
    for i in range(3)
  ]
  for i, watch in enumerate(watches):
    watch.on_loss.append(lambda why, i=i: written.append((i, why)))
  yield watches, pairs, ended, written
  for pair in pairs.values():
    for connection in pair:
      connection.close()


@pytest.mark.parametrize(
  ("lost", "writer", "left"), [(1, 0, {0, 2}), (2, 0, {0, 1}), (0, 1, {1, 2})]
)
def test_all_end_with_the_name_of_the_one_that_was_lost(
  three, lost, writer, left
):
  watches, pairs, ended, written = three
  watches[lost]._ending.acquire()  # The lost process says nothing more.
  for number, pair in pairs.items():
    if lost in (0, number):
      # The system does this when a process is gone.
      pair[lost and 1].shutdown(socket.SHUT_RDWR)
  told = dict(ended.get(timeout=10) for _ in left)
  reason = f"Process {lost} was lost."
  assert all(told[i].startswith(reason) for i in left), told
  assert (writer, reason) in written
  assert {i for i, _ in written} == {writer}


def test_all_end_with_the_name_of_the_one_that_failed(three):
  watches, _, ended, written = three
  watches[1].fail()
  told = dict(ended.get(timeout=10) for _ in range(3))
  assert all(told[i].startswith("Process 1 on ") for i in (0, 2)), told
  assert all("failed. This process" in told[i] for i in (0, 2))
  assert [i for i, _ in written] == [0]


def test_failure_that_a_lost_process_caused_is_not_blamed_on_the_next(three):
  """The loss is named even if a collective fails before the connection ends."""
  watches, pairs, ended, _ = three
  watches[0]._ending.acquire()  # Process 0 is gone.
  failing = threading.Thread(target=watches[1].fail)
  failing.start()
  time.sleep(0.2)
  pairs[1][0].shutdown(socket.SHUT_RDWR)
  pairs[2][0].shutdown(socket.SHUT_RDWR)
  told = dict(ended.get(timeout=10) for _ in range(2))
  failing.join()
  assert all(told[i].startswith("Process 0 was lost.") for i in (1, 2)), told


def test_processes_that_are_done_wait_for_the_others(three):
  watches, pairs, ended, _ = three
  with futures.ThreadPoolExecutor(2) as threads:
    closing = [threads.submit(x.close) for x in watches[1:]]
    time.sleep(0.1)
    assert not any(x.done() for x in closing)
    watches[0].close()
  for pair in pairs.values():
    pair[1].shutdown(socket.SHUT_RDWR)
  time.sleep(0.2)
  assert ended.empty()


class _Store:
  """A stand-in for JAX's store, with one key."""

  def __init__(self):
    self._values = queue.Queue()

  def key_value_set(self, key, value):
    address = "localhost", json.loads(value)[0]
    for stranger in (b'["no token", 1, "nobody"]', b"0"):
      with socket.create_connection(address) as other:
        other.sendall(stranger.ljust(1000))
    for _ in range(2):
      self._values.put(value)

  def blocking_key_value_get(self, key, timeout_in_ms):
    return self._values.get(timeout=timeout_in_ms / 1000)


def test_processes_connect_and_strangers_do_not():
  rest = [3] * 3, ["localhost"] * 3, [_Store()] * 3
  with futures.ThreadPoolExecutor(3) as threads:
    found = [*threads.map(multihost.connect, range(3), *rest)]
  for peer in (x for peers in found for x in peers.values()):
    peer.connection.close()
  host = socket.gethostname()
  names = [{x.name for x in peers.values()} for peers in found]
  others = {f"Process {i} on {host}" for i in (1, 2)}
  first = {f"Process 0 on {host}"}
  assert names == [others, first, first]
