"""The server as a process, made from the flags of `prompt-tuning serve`."""

import argparse
import contextlib
import json
import os
import signal
import socket
import sqlite3
import sys
import types

from absl import logging
from starlette.types import ASGIApp
import uvicorn
from uvicorn.protocols.http import httptools_impl

import prompt_tuning as pt
from prompt_tuning.inference.batch_queue import Settings, Shapes
from prompt_tuning.inference.engine import Engine
from prompt_tuning.serving import access_log, app, demo, tenants
from prompt_tuning.serving.metrics import Metrics
from prompt_tuning.serving.prompt_store import PromptStore
from prompt_tuning.serving.service import Service
from prompt_tuning.tuning_jobs.job_store import JobStore
from prompt_tuning.tuning_jobs.worker import OF_MODEL, Supervisor

# Bytes in which a head must end; what arrives with it counts, too. `middleware`
# refuses a smaller one that is too large.
_MOST_HEAD = 2**19


def serve(options: argparse.Namespace) -> None:
  """Serves until the process gets a signal.

  Args:
    options: Values of the flags of `prompt-tuning serve`.

  Raises:
    ValueError: if an option or a file that one names is wrong.
    OSError: if a file cannot be read.
  """
  logging.set_verbosity(logging.WARNING)
  with listen(options.host, options.port) as listener:  # It fails at once.
    if options.access_log:
      access_log.write_to(options.access_log)
    service = make_service(options)
    # Until here, INFO would have been notes on reading a checkpoint.
    logging.set_verbosity(logging.INFO)
    if options.demo and options.jobs:
      files = demo.data_sets(service.engine.model, options.jobs)
      logging.info("To tune %s, upload %s", demo.NEW_TASK, " and ".join(files))
    host = f"[{options.host}]" if ":" in options.host else options.host
    port = listener.getsockname()[1]
    logging.info("Serving %s: http://%s:%d/", service.base, host, port)
    server = _Server(make_config(options, app.make(service)), service)
    # uvicorn has ended all answers when it repeats the signal.
    with contextlib.suppress(KeyboardInterrupt):
      server.run([listener])


def listen(host: str, port: int) -> socket.socket:
  """Takes the server's port.

  Raises:
    ValueError: if it is not free, or this machine has no such address.
  """
  if not 0 <= port < 2**16:
    raise ValueError(f"Expected --port from 0 to 65535, got {port}.")
  family = socket.AF_INET6 if ":" in host else socket.AF_INET
  try:
    return socket.create_server((host, port), family=family)
  except OSError as error:
    message = f"--host={host} --port={port} cannot be used: {error}."
    raise ValueError(message) from None


def make_config(options: argparse.Namespace, app: ASGIApp) -> uvicorn.Config:
  """Returns the configuration of the web server."""
  return uvicorn.Config(
    app,
    log_level="warning",
    http=_Protocol,
    # Unfinished answers are sent within this time.
    timeout_graceful_shutdown=options.answer_seconds,
    server_header=False,
    # Any client could send a proxy's headers.
    proxy_headers=bool(options.forwarded_allow_ips),
    forwarded_allow_ips=options.forwarded_allow_ips,
  )


class _Protocol(httptools_impl.HttpToolsProtocol):
  """uvicorn's HTTP/1.1, with a limit on the bytes of an unfinished head."""

  _is_in_head, _head_bytes = True, 0

  def data_received(self, data: bytes) -> None:
    """Parses a part, or ends a connection whose head does not end."""
    super().data_received(data)
    self._head_bytes += len(data) if self._is_in_head else 0
    if self._head_bytes > _MOST_HEAD and not self.transport.is_closing():
      self.send_400_response("The headers are too large.")

  def on_headers_complete(self) -> None:
    """Goes on to the body."""
    self._is_in_head, self._head_bytes = False, 0
    super().on_headers_complete()

  def on_message_complete(self) -> None:
    """Goes on to the next request's head."""
    self._is_in_head = True
    super().on_message_complete()


class _Server(uvicorn.Server):
  """A server that tells endless streams, and the worker, when it stops."""

  def __init__(self, config: uvicorn.Config, service: Service):
    super().__init__(config)
    self._service = service

  def handle_exit(self, sig: int, frame: types.FrameType | None) -> None:
    self._service.is_stopping = True
    if (supervisor := self._service.supervisor) is not None:
      supervisor.stop()  # The worker saves its run meanwhile.
    super().handle_exit(signal.Signals(sig), frame)


def make_service(options: argparse.Namespace) -> Service:
  """Returns the service: the model, its engine, its prompts and its jobs.

  Raises:
    ValueError: if an option, the checkpoint or the folder of jobs is wrong.
  """
  limits = make_limits(options)  # First: a wrong file is found at once.
  most = max(options.lengths) - 2  # A token, and the end of sequence.
  longest = options.longest_prompt or min(128, most)
  if not 1 <= longest <= most:
    raise ValueError(
      f"--longest_prompt={longest} leaves no room for it or an input: expected "
      f"1 to {most}, as --lengths has {max(options.lengths)}. The least is "
      "--lengths=3."
    )
  settings = Settings(
    shapes=Shapes(
      rows=sorted({max(1, options.rows // 4**i) for i in range(8)}),
      lengths=options.lengths,
      steps=sorted({min(16, options.max_tokens), options.max_tokens}),
      labels=options.labels,
      beams=[options.beams] if options.beams else [],
    ),
    slots=options.slots,
    longest_prompt=longest,
    room=options.queue,
    patience=options.patience,
  )
  model = pt.load(**{name: getattr(options, name) for name in OF_MODEL})
  metrics = Metrics()
  engine = Engine(model, settings, metrics.count_batch)
  base = options.name or model.name
  store = PromptStore(options.prompts, engine, base)
  metrics.watch(engine, store)
  service = Service(base, engine, store, metrics, limits)
  if options.jobs:
    try:
      service.jobs = JobStore(options.jobs, base, model.fingerprint)
    except sqlite3.Error as error:
      raise ValueError(error) from error
    names = *OF_MODEL, "jobs", "prompts", "submit", "option"
    flags = {name: getattr(options, name) for name in names}
    flags |= {"fingerprint": model.fingerprint, "parent": os.getpid()}
    module = "prompt_tuning.tuning_jobs.worker"
    command = [sys.executable, "-m", module, json.dumps(flags)]
    service.supervisor = Supervisor(service.jobs, command)
  if options.demo:
    service.examples = demo.examples(model, options.prompts)
  return service


def make_limits(options: argparse.Namespace) -> tenants.Limits:
  """Returns the limits that clients have.

  Raises:
    ValueError: if the file of keys has no key, or keys are needed.
  """
  keys, hosts = options.keys, None
  is_local = options.host in ("localhost", "127.0.0.1", "::1")
  if keys is None and not is_local and not options.without_keys:
    raise ValueError(
      f"--host={options.host} listens beyond this machine: expected "
      "--keys=FILE, or --without_keys, which lets anyone in."
    )
  # Without a key or a proxy, a server answers to its own names alone.
  if options.hosts or not (keys or options.forwarded_allow_ips):
    own = ("localhost", socket.gethostname(), options.host, *options.hosts)
    hosts = frozenset(name.lower() for name in own)
  return tenants.Limits(
    keys=None if keys is None else tenants.read_keys(keys),
    requests_per_minute=options.requests_per_minute,
    stored={
      name: getattr(options, f"quota_{name}")
      for name in ("bytes", "files", "jobs")
    },
    body_bytes=options.body_bytes,
    upload_bytes=options.upload_bytes,
    answer_seconds=options.answer_seconds,
    hosts=hosts,
  )
