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
import jax
from starlette.types import ASGIApp
import uvicorn
from uvicorn.protocols.http import httptools_impl

import prompt_tuning as pt
from prompt_tuning.inference.batch_queue import Settings, Shapes
from prompt_tuning.inference.engine import Engine
from prompt_tuning.serving import access_log, app, demo, tenants
from prompt_tuning.serving.listening import listen
from prompt_tuning.serving.metrics import Metrics
from prompt_tuning.serving.prompt_store import PromptStore
from prompt_tuning.serving.service import Service
from prompt_tuning.tuning_jobs.job_store import JobStore
from prompt_tuning.tuning_jobs.worker import OF_MODEL, Supervisor

# A head must end within this many bytes, counting data that arrive with it.
# `middleware` has a lower limit for complete heads.
_MOST_HEAD = 2**19


def serve(
  options: argparse.Namespace,
  number: int | None = None,
  shared_folder: str | None = None,
) -> None:
  """Serves until the process gets a signal.

  Args:
    options: Values of the flags of `prompt-tuning serve`.
    number: The server's number among several at one port, from 1, or None; see
      `processes`.
    shared_folder: The folder through which they share the model's arrays.

  Raises:
    ValueError: if an option, or a file that it names, is wrong.
    OSError: if a file cannot be read.
  """
  logging.set_verbosity(logging.WARNING)
  host, port = options.host, options.port
  with contextlib.ExitStack() as stack:  # First, so a taken port fails at once.
    own = listen(host, port + (number or 0))
    listeners = [stack.enter_context(own)]
    if number is not None:
      listeners.append(stack.enter_context(listen(host, port, is_shared=True)))
    if options.access_log:
      access_log.write_to(options.access_log)
    service = make_service(options, shared_folder)
    service.is_one_of_several = number is not None
    # Before this, INFO would log only notes about reading the checkpoint.
    logging.set_verbosity(logging.INFO)
    if options.demo and options.jobs:
      files = demo.data_sets(service.engine.model, options.jobs)
      logging.info("To tune %s, upload %s", demo.NEW_TASK, " and ".join(files))
    shown = f"[{host}]" if ":" in host else host
    ports = [listener.getsockname()[1] for listener in reversed(listeners)]
    text = " and, alone, ".join(f"http://{shown}:{port}/" for port in ports)
    logging.info("Serving %s: %s", service.base, text)
    server = _Server(make_config(options, app.make(service)), service)
    # uvicorn ends all answers before it raises the signal again.
    with contextlib.suppress(KeyboardInterrupt):
      server.run(listeners)


def make_config(options: argparse.Namespace, app: ASGIApp) -> uvicorn.Config:
  """Returns the configuration of the web server."""
  return uvicorn.Config(
    app,
    log_level="warning",
    http=_Protocol,
    # Unfinished answers are sent within this time.
    timeout_graceful_shutdown=options.answer_seconds,
    server_header=False,
    # Otherwise any client could send a proxy's headers.
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
    """Marks the head as complete."""
    self._is_in_head, self._head_bytes = False, 0
    super().on_headers_complete()

  def on_message_complete(self) -> None:
    """Prepares for the next request's head."""
    self._is_in_head = True
    super().on_message_complete()


class _Server(uvicorn.Server):
  """A server that stops endless streams, and the worker, when it stops."""

  def __init__(self, config: uvicorn.Config, service: Service):
    super().__init__(config)
    self._service = service

  async def on_tick(self, counter: int) -> bool:
    """Ends the server if its engine failed and other servers can answer."""
    failed = self._service.engine.failure is not None
    ends = failed and self._service.is_one_of_several
    return await super().on_tick(counter) or ends

  def handle_exit(self, sig: int, frame: types.FrameType | None) -> None:
    self._service.is_stopping = True
    if (supervisor := self._service.supervisor) is not None:
      supervisor.stop()  # The worker saves its run meanwhile.
    super().handle_exit(signal.Signals(sig), frame)


def make_service(
  options: argparse.Namespace, shared_folder: str | None = None
) -> Service:
  """Returns the service: the model, its engine, its prompts and its jobs.

  Args:
    options: Values of the flags of `prompt-tuning serve`.
    shared_folder: As for `serve`.

  Raises:
    ValueError: if an option, the checkpoint or the folder of jobs is wrong.
  """
  limits = make_limits(options)  # First, so a wrong file is found at once.
  most = max(options.lengths) - 2  # Less a token, and the end of sequence.
  longest = options.longest_prompt or min(128, most)
  if not 1 <= longest <= most:
    raise ValueError(
      f"--longest_prompt={longest} leaves no room for the prompt or an input: "
      f"expected 1 to {most}, because --lengths has {max(options.lengths)}. "
      "The least is --lengths=3."
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
  model.shared_folder = shared_folder
  if shared_folder and (platform := jax.default_backend()) != "cpu":
    raise ValueError(f"--processes is for CPUs, and JAX uses a {platform}.")
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
    service.examples = demo.examples(model, store.all())
  return service


def make_limits(options: argparse.Namespace) -> tenants.Limits:
  """Returns the limits for clients.

  Raises:
    ValueError: if the file of keys has no key, or keys are required.
  """
  keys, hosts = options.keys, None
  is_local = options.host in ("localhost", "127.0.0.1", "::1")
  if keys is None and not is_local and not options.without_keys:
    raise ValueError(
      f"--host={options.host} listens beyond this machine: expected "
      "--keys=FILE, or --without_keys, which lets anyone in."
    )
  # Without a key or a proxy, a server answers only to its own names.
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
