"""The server as a process, made from the flags of `prompt-tuning serve`."""

import argparse
import json
import os
import signal
import sqlite3
import sys
import types

from absl import logging
from starlette.types import ASGIApp
import uvicorn

import prompt_tuning as pt
from prompt_tuning.inference.batch_queue import Settings, Shapes
from prompt_tuning.inference.engine import Engine
from prompt_tuning.serving import app, demo, middleware
from prompt_tuning.serving.metrics import Metrics
from prompt_tuning.serving.prompt_store import PromptStore
from prompt_tuning.serving.service import Service
from prompt_tuning.tuning_jobs.job_store import JobStore
from prompt_tuning.tuning_jobs.worker import Supervisor
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
  if options.demo and options.jobs:
    files = demo.data_sets(service.engine.model, options.jobs)
    logging.info("To tune %s, upload %s", demo.NEW_TASK, " and ".join(files))
  logging.info(
    "Serving %s: http://%s:%d/", service.base, options.host, options.port
  )
  _Server(make_config(options, app.make(service)), service).run()


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
  model = pt.load(options.checkpoint, options.vocabulary, dtype=options.dtype)
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
    names = "checkpoint", "vocabulary", "dtype", "jobs", "prompts", "submit"
    flags = {name: getattr(options, name) for name in (*names, "option")}
    flags |= {"fingerprint": model.fingerprint, "parent": os.getpid()}
    module = "prompt_tuning.tuning_jobs.worker"
    command = [sys.executable, "-m", module, json.dumps(flags)]
    service.supervisor = Supervisor(service.jobs, command)
  if options.demo:
    service.examples = demo.examples(model, options.prompts)
  return service


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
