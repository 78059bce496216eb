"""The server as a process, made from the flags of `prompt-tuning serve`."""

import argparse
import os
import signal
import socket
import sqlite3
import sys
import types

from absl import logging
import fastapi
from starlette.types import ASGIApp
import uvicorn

import prompt_tuning as pt
from prompt_tuning.inference.batch_queue import Shapes
from prompt_tuning.inference.engine import Engine, Settings
from prompt_tuning.serving import app, demo, job_routes, middleware, page
from prompt_tuning.serving.metrics import Metrics
from prompt_tuning.serving.prompt_store import PromptStore
from prompt_tuning.serving.service import Service
from prompt_tuning.tuning_jobs.job_store import JobStore
from prompt_tuning.tuning_jobs.supervisor import Supervisor
from t5x.files import compilation_cache

_LOCAL = frozenset({"localhost", "127.0.0.1", "[::1]"})


def serve(options: argparse.Namespace) -> None:
  """Serves until the process gets a signal.

  Args:
    options: Values of the flags of `prompt-tuning serve`.

  Raises:
    ValueError: if an option or a file that one names is wrong.
    OSError: if a file cannot be read.
  """
  logging.set_verbosity(logging.WARNING)
  compilation_cache.enable()
  service = make_service(options)
  # Until here, INFO would have been notes on reading a checkpoint.
  logging.set_verbosity(logging.INFO)
  try:
    application = make_application(options, service)
  except sqlite3.Error as error:
    raise ValueError(error) from error
  logging.info(
    "Serving %s: http://%s:%d/", service.base, options.host, options.port
  )
  _Server(make_config(options, application), service).run()


def make_config(options: argparse.Namespace, app: ASGIApp) -> uvicorn.Config:
  """Returns the configuration of the web server."""
  return uvicorn.Config(
    app,
    host=options.host,
    port=options.port,
    log_level="warning",
    http="h11",  # The limit of its headers is set below.
    # Unfinished answers are sent within this time.
    timeout_graceful_shutdown=options.answer_seconds,
    h11_max_incomplete_event_size=2**16,
    server_header=False,
    # Any client could send a proxy's headers.
    proxy_headers=bool(options.forwarded_allow_ips),
    forwarded_allow_ips=options.forwarded_allow_ips,
  )


class _Server(uvicorn.Server):
  """A server that tells endless streams when it stops."""

  def __init__(self, config: uvicorn.Config, service: Service):
    super().__init__(config)
    self._service = service

  def handle_exit(self, sig: int, frame: types.FrameType | None) -> None:
    self._service.is_stopping = True
    super().handle_exit(signal.Signals(sig), frame)

  async def shutdown(self, sockets: list[socket.socket] | None = None) -> None:
    if (supervisor := self._service.supervisor) is not None:
      supervisor.stop()  # The worker saves its run meanwhile.
    await super().shutdown(sockets)


def make_service(options: argparse.Namespace) -> Service:
  """Returns the service: the model, its engine and its prompts.

  Raises:
    ValueError: if an option or the checkpoint is wrong.
  """
  limits = make_limits(options)  # First: a wrong file is found at once.
  settings = Settings(
    shapes=Shapes(
      rows=sorted({max(1, options.rows // 4**i) for i in range(8)}),
      lengths=options.lengths,
      steps=sorted({min(16, options.max_tokens), options.max_tokens}),
      labels=options.labels,
      beams=[options.beams] if options.beams else [],
    ),
    slots=options.slots,
    longest_prompt=_longest_prompt(options),
    room=options.queue,
    patience=options.patience,
  )
  model = pt.load(options.checkpoint, options.vocabulary, dtype=options.dtype)
  metrics = Metrics()
  engine = Engine(model, settings, metrics.count_batch)
  base = options.name or model.name
  store = PromptStore(options.prompts, engine, base)
  metrics.watch(engine, store)
  return Service(base, engine, store, metrics, limits)


def make_limits(options: argparse.Namespace) -> middleware.Limits:
  """Returns the limits that clients have.

  Raises:
    ValueError: if the file of keys has no key.
  """
  keys, hosts = options.keys, None
  # Without a key or a proxy, a local server answers to its own names alone.
  if keys is None and not options.forwarded_allow_ips:
    hosts = _LOCAL if options.host in _LOCAL | {"::1"} else None
  return middleware.Limits(
    keys=None if keys is None else middleware.read_keys(keys),
    requests_per_minute=options.requests_per_minute,
    body_bytes=options.body_bytes,
    upload_bytes=options.upload_bytes,
    answer_seconds=options.answer_seconds,
    hosts=hosts,
  )


def _longest_prompt(options: argparse.Namespace) -> int:
  """Returns the positions of the longest prompt, with room for an input.

  Raises:
    ValueError: if --longest_prompt leaves no room.
  """
  most = max(options.lengths) - 2  # A token, and the end of sequence.
  longest = options.longest_prompt or min(128, most)
  if not 1 <= longest <= most:
    raise ValueError(
      f"--longest_prompt={longest} leaves no room for it or an input: expected "
      f"1 to {most}, as --lengths has {max(options.lengths)}. The least is "
      "--lengths=3."
    )
  return longest


def _job_routes(
  options: argparse.Namespace, service: Service
) -> list[fastapi.APIRouter]:
  """Returns the routes of jobs, and adds their supervisor to the service."""
  if not options.jobs:
    return []
  fingerprint = service.engine.model.fingerprint
  store = JobStore(options.jobs, service.base, fingerprint)
  command = [sys.executable, "-m", "prompt_tuning.tuning_jobs.worker"]
  command += [f"--fingerprint={fingerprint}", f"--parent={os.getpid()}"]
  for name in ("checkpoint", "vocabulary", "dtype", "jobs", "prompts"):
    if (value := getattr(options, name)) is not None:
      command.append(f"--{name}={value}")
  if options.submit:
    command.append(f"--submit={options.submit}")
    command += [f"--option={x}" for x in options.option]
  service.supervisor = Supervisor(store, command)
  return [job_routes.router(service, store, service.supervisor.wake)]


def make_application(options: argparse.Namespace, service: Service) -> ASGIApp:
  """Returns the application, with the page and the jobs."""
  tuning = _job_routes(options, service)  # First: it checks the folder.
  examples = _demo_examples(options, service) if options.demo else []
  return app.make(
    service, page.router(service, examples, tunes=bool(options.jobs)), *tuning
  )


def _demo_examples(
  options: argparse.Namespace, service: Service
) -> list[page.Example]:
  """Returns the page's examples; logs the files that can be tuned on."""
  model = service.engine.model
  files = demo.data_sets(model, options.jobs) if options.jobs else []
  if files:
    logging.info("To tune %s, upload %s", demo.NEW_TASK, " and ".join(files))
  return demo.examples(model, options.prompts)
