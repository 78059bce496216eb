"""The command line of the server.

  python -m prompt_tuning.serve --checkpoint=checkpoints/t5_small \\
    --prompts=prompts --port=8000
"""

import argparse
from collections.abc import Sequence
import contextlib
import math
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
from prompt_tuning.commands import demo
from prompt_tuning.inference.engine import Engine, Settings
from prompt_tuning.inference.shapes import Shapes
from prompt_tuning.serving import app, gate, job_routes, page
from prompt_tuning.serving.metrics import Metrics
from prompt_tuning.serving.prompt_store import PromptStore
from prompt_tuning.serving.service import Service
from prompt_tuning.training import cluster_options
from prompt_tuning.tuning_jobs.job_store import JobStore
from prompt_tuning.tuning_jobs.supervisor import Supervisor
from t5x.runs import compilation_cache

_LOCAL = frozenset({"localhost", "127.0.0.1", "[::1]"})


def main(arguments: Sequence[str] | None = None) -> None:
  """Serves until it is told to stop; the arguments are the process's."""
  logging.set_verbosity(logging.WARNING)
  compilation_cache.enable()
  try:
    args = parse(arguments)
    service = make_service(args)
    # Reading a checkpoint says much that nobody needs to know here.
    logging.set_verbosity(logging.INFO)
    application = make_application(args, service)
  except (ValueError, OSError, sqlite3.Error) as error:
    print(f"Error: {error}", file=sys.stderr)
    sys.exit(2)
  logging.info("Serving %s: http://%s:%d/", service.base, args.host, args.port)
  config = uvicorn.Config(
    application,
    host=args.host,
    port=args.port,
    log_level="warning",
    http="h11",  # Whose limit of a header is set below.
    # Answers that are being made are sent.
    timeout_graceful_shutdown=args.answer_seconds,
    h11_max_incomplete_event_size=2**16,
    server_header=False,
    # Anybody can say to be somebody else.
    proxy_headers=bool(args.forwarded_allow_ips),
    forwarded_allow_ips=args.forwarded_allow_ips,
  )
  _Server(config, service).run()


class _Server(uvicorn.Server):
  """Tells streams without an end that it stops."""

  def __init__(self, config: uvicorn.Config, service: Service):
    super().__init__(config)
    self._service = service

  def handle_exit(self, sig: int, frame: types.FrameType | None) -> None:
    self._service.is_stopping = True
    super().handle_exit(signal.Signals(sig), frame)

  async def shutdown(self, sockets: list[socket.socket] | None = None) -> None:
    if (supervisor := self._service.supervisor) is not None:
      supervisor.stop()  # Its worker saves itself while answers are finished.
    await super().shutdown(sockets)


def make_service(args: argparse.Namespace) -> Service:
  """Makes what is served.

  Raises:
    ValueError: for wrong arguments, or a wrong checkpoint.
  """
  limits = gate.Limits(
    keys=None if args.keys is None else gate.read_keys(args.keys),
    requests_per_minute=args.requests_per_minute,
    body_bytes=args.body_bytes,
    upload_bytes=args.upload_bytes,
    answer_seconds=args.answer_seconds,
    hosts=_LOCAL if _is_for_this_machine(args) else None,
  )
  settings = Settings(
    shapes=Shapes(
      rows=_up_to(args.rows, 4, 1),
      lengths=args.lengths,
      steps=sorted({min(16, args.max_tokens), args.max_tokens}),
      labels=args.labels,
      beams=[args.beams] if args.beams else [],
    ),
    slots=args.slots,
    longest_prompt=_longest_prompt(args),
    room=args.queue,
    patience=args.patience,
  )
  model = pt.load(args.checkpoint, args.vocabulary, dtype=args.dtype)
  metrics = Metrics()
  engine = Engine(model, settings, metrics.count_batch)
  base = args.name or model.name
  store = PromptStore(args.prompts, engine, base)
  metrics.watch(engine, store)
  return Service(base, engine, store, metrics, limits)


def _is_for_this_machine(args: argparse.Namespace) -> bool:
  """Whether only programs of this machine may ask, without a key or proxy."""
  is_open = args.keys is None and not args.forwarded_allow_ips
  return is_open and args.host in _LOCAL | {"::1"}


def _longest_prompt(args: argparse.Namespace) -> int:
  """Returns the positions of the longest prompt, which leaves room for a token.

  Raises:
    ValueError: if one was asked for that does not.
  """
  most = max(args.lengths) - 2  # A token, and the end of sequence.
  longest = args.longest_prompt or min(128, most)
  if not 1 <= longest <= most:
    raise ValueError(
      f"--longest_prompt={longest} leaves no room for it or an input: expected "
      f"1 to {most}, as --lengths has {max(args.lengths)}. The least is "
      "--lengths=3."
    )
  return longest


def _job_routes(
  args: argparse.Namespace, service: Service
) -> list[fastapi.APIRouter]:
  """Returns the routes of jobs, whose worker the service then has."""
  if not args.jobs:
    return []
  fingerprint = service.engine.model.fingerprint
  store = JobStore(args.jobs, service.base, fingerprint)
  command = [sys.executable, "-m", "prompt_tuning.tuning_jobs.worker"]
  command += [f"--fingerprint={fingerprint}", f"--parent={os.getpid()}"]
  for name in ("checkpoint", "vocabulary", "dtype", "jobs", "prompts"):
    if (value := getattr(args, name)) is not None:
      command.append(f"--{name}={value}")
  if args.submit:
    command.append(f"--submit={args.submit}")
    command += [f"--option={option}" for option in args.option]
  service.supervisor = Supervisor(store, command)
  return [job_routes.router(service, store, service.supervisor.wake)]


def make_application(args: argparse.Namespace, service: Service) -> ASGIApp:
  """Makes the application, page and jobs included."""
  tuning = _job_routes(args, service)  # First: it checks the folder.
  examples = _demo_examples(args, service) if args.demo else []
  return app.make(
    service, page.router(service, examples, tunes=bool(args.jobs)), *tuning
  )


def parse(arguments: Sequence[str] | None) -> argparse.Namespace:
  """Reads the command line; what is wrong ends the process.

  Raises:
    ValueError: if there is no demo here, or an option is none.
  """
  parser = _parser()
  args = parser.parse_args(arguments)
  if args.demo:
    parser.set_defaults(**demo.defaults())
    args = parser.parse_args(arguments)  # What is said, holds.
  elif args.checkpoint is None:
    parser.error("--checkpoint is required, or --demo")
  if args.option and not args.submit:
    parser.error("--option is for --submit")
  if args.submit and not args.jobs:
    parser.error("--submit is for --jobs, and there are none")
  cluster_options.read(args.option)
  if args.submit:
    cluster_options.check_submitit()
  return args


def _demo_examples(
  args: argparse.Namespace, service: Service
) -> list[page.Example]:
  """Returns what the page offers, and says what can be tuned."""
  model = service.engine.model
  files = demo.data_sets(model, args.jobs) if args.jobs else []
  if files:
    logging.info("To tune %s, upload %s", demo.NEW_TASK, " and ".join(files))
  return demo.examples(model, args.prompts)


def _up_to(number: int, factor: int, least: int) -> list[int]:
  """Returns a number, and smaller ones by a factor, from the least on."""
  sizes = [number]
  while sizes[-1] // factor > least:
    sizes.append(sizes[-1] // factor)
  return sorted({least, *sizes})


def _numbers(text: str) -> list[int]:
  return [_positive(part) for part in text.split(",")]


def _count(text: str) -> int:
  if not (text := text.strip()).isdecimal():
    raise argparse.ArgumentTypeError(f"expected 0 or more, got {text!r}")
  return int(text)


def _positive(text: str) -> int:
  if not (number := _count(text)):
    raise argparse.ArgumentTypeError("expected 1 or more, got 0")
  return number


def _seconds(text: str) -> float:
  with contextlib.suppress(ValueError):
    if 0 <= (number := float(text)) < math.inf:
      return number
  raise argparse.ArgumentTypeError(f"expected 0 or more, got {text!r}")


def _parser() -> argparse.ArgumentParser:
  parser = argparse.ArgumentParser(
    prog="python -m prompt_tuning.serve",
    description="Serves a frozen T5 with many prompts, in OpenAI's form.",
    formatter_class=argparse.ArgumentDefaultsHelpFormatter,
  )
  add = parser.add_argument
  add("--checkpoint", help="the base model's")
  add(
    "--demo",
    action="store_true",
    help="a miniature with prompts of its tasks, to look around",
  )
  add("--vocabulary", help="its SentencePiece file, if not beside it")
  add("--name", help="of the model alone; by default its own")
  add("--dtype", default="float32", help="of activations: float32, bfloat16")
  add("--prompts", default="prompts", help="folder of NAME.safetensors")
  add("--jobs", default="jobs", help="folder of tuning jobs; '': none")
  add("--submit", metavar="CLUSTER", help="where jobs run: slurm, by submitit")
  add(
    "--option",
    action="append",
    default=[],
    metavar="NAME=VALUE",
    help="for submitit, such as timeout_min=600 or slurm_partition=gpu",
  )
  add("--host", default="127.0.0.1", help="where to listen; 0.0.0.0: to all")
  add("--port", type=int, default=8000)
  add("--keys", help="file of keys that are let in, one a line; none: anybody")
  limits = parser.add_argument_group("limits")
  add = limits.add_argument
  add("--requests_per_minute", type=_count, default=0, help="of a key; 0: any")
  add("--body_bytes", type=_positive, default=2**20, help="of a request")
  add("--upload_bytes", type=_positive, default=2**26, help="of a file")
  add("--answer_seconds", type=_positive, default=120, help="for an answer")
  add(
    "--forwarded_allow_ips",
    default="",
    metavar="ADDRESSES",
    help="of proxies, by commas, whose X-Forwarded-For says who asks",
  )
  add("--queue", type=_positive, default=256, help="inputs that may wait")
  batches = parser.add_argument_group(
    "batches", "each combination of these sizes is compiled at the start"
  )
  add = batches.add_argument
  add("--rows", type=_positive, default=16, help="inputs of a batch, at most")
  add(
    "--lengths",
    type=_numbers,
    default="64,128,256,512",
    help="tokens of an input and its prompt",
  )
  add("--max_tokens", type=_positive, default=128, help="of an answer, at most")
  add("--labels", type=_numbers, default="16,64", help="tokens of all labels")
  add("--beams", type=_count, default=0, help="of a beam search; 0: none")
  add("--slots", type=_positive, default=64, help="prompts on the device")
  add(
    "--longest_prompt",
    type=_positive,
    help="positions; by default 128, or what --lengths leave room for",
  )
  add("--patience", type=_seconds, default=0.003, help="seconds, for a batch")
  return parser
