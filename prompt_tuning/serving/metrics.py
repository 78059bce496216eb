"""What Prometheus reads of a server."""

import time

import jax
import prometheus_client
from prometheus_client import Counter, Gauge, Histogram
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from prompt_tuning.inference.engine import BatchDone, Engine
from prompt_tuning.serving.prompt_store import PromptStore

_SECONDS = (0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30, 60, 120)
_ROWS = (1, 2, 4, 8, 16, 32, 64)
# What stands for paths and prompts that there are not.
_OTHER = "other"


class Metrics:
  """The metrics of one server, in a registry of their own."""

  def __init__(self):
    """Begins at zero."""
    self._registry = registry = prometheus_client.CollectorRegistry()
    prometheus_client.ProcessCollector(registry=registry)
    self._store: PromptStore | None = None
    # The labels of `_answers`: name of the prompt, kind.
    self._answered: set[tuple[str, str]] = set()
    self._requests = Counter(
      "prompt_tuning_requests",
      "HTTP requests.",
      ["route", "status"],
      registry=registry,
    )
    self._seconds = Histogram(
      "prompt_tuning_request_seconds",
      "Time to the end of a response.",
      ["route"],
      buckets=_SECONDS,
      registry=registry,
    )
    self._answers = Counter(
      "prompt_tuning_answers",
      "Inputs that were answered.",
      ["prompt", "kind"],
      registry=registry,
    )
    self._tokens = Counter(
      "prompt_tuning_tokens",
      "Tokens that batches read, those of prompts included, and wrote.",
      ["direction"],
      registry=registry,
    )
    self._batch_rows = Histogram(
      "prompt_tuning_batch_requests",
      "Inputs of a batch.",
      ["kind"],
      buckets=_ROWS,
      registry=registry,
    )
    self._batch_seconds = Histogram(
      "prompt_tuning_batch_seconds",
      "Time of a batch, from its first step to its last.",
      ["kind"],
      buckets=_SECONDS,
      registry=registry,
    )

  def watch(self, engine: Engine, store: PromptStore) -> None:
    """Adds what is asked for when it is read."""
    self._store, table = store, engine.table
    values = {
      "queue": ("Inputs that wait.", lambda: engine.waiting),
      "running": ("Inputs that are worked on.", lambda: engine.running),
      "ready": ("Whether requests are answered.", lambda: engine.is_ready),
      "prompts": ("Prompts that are served.", lambda: len(store.all())),
      "prompt_host_bytes": (
        "Memory of all prompts on the host.",
        lambda: sum(prompt.array.nbytes for prompt in store.all()),
      ),
      "prompts_on_device": ("Prompts on the device.", lambda: table.held),
      "prompt_table_bytes": (
        "Memory of the table of prompts on the device.",
        lambda: table.array.nbytes,
      ),
      "prompt_swaps": (
        "Prompts that were copied to the device, so far.",
        lambda: table.swaps,
      ),
      "model_bytes": (
        "Memory of the frozen model's parameters.",
        lambda: sum(x.nbytes for x in jax.tree.leaves(engine.model.params)),
      ),
      "array_bytes": (
        "Memory of all arrays: the model, the table, and batches.",
        lambda: sum(x.nbytes for x in jax.live_arrays()),
      ),
    }
    for name, (text, value) in values.items():
      Gauge(
        f"prompt_tuning_{name}", text, registry=self._registry
      ).set_function(value)

  def count_batch(self, done: BatchDone) -> None:
    """Counts a batch; called by the engine."""
    kind = done.shape.kind
    self._batch_rows.labels(kind).observe(done.requests)
    self._batch_seconds.labels(kind).observe(done.seconds)
    self._tokens.labels("in").inc(done.input_tokens)
    self._tokens.labels("out").inc(done.output_tokens)

  def count_answers(self, prompt: str, kind: str, number: int) -> None:
    """Counts inputs that were answered with a prompt."""
    self._answered.add((prompt, kind))
    self._answers.labels(prompt, kind).inc(number)

  def _forget_prompts_that_are_gone(self) -> None:
    if self._store is None:
      return
    there = self._store.names()
    for labels in tuple(self._answered):
      if labels[0] not in there:
        self._answered.discard(labels)
        self._answers.remove(*labels)

  def text(self) -> bytes:
    """Returns all of it in Prometheus's format."""
    self._forget_prompts_that_are_gone()
    return prometheus_client.generate_latest(self._registry)

  def around(self, app: ASGIApp) -> ASGIApp:
    """Returns an application that counts the requests of another."""

    async def counted(scope: Scope, receive: Receive, send: Send) -> None:
      if scope["type"] != "http":
        await app(scope, receive, send)
        return
      start, status = time.monotonic(), 0

      async def noted(message: Message) -> None:
        nonlocal status
        if message["type"] == "http.response.start":
          status = message["status"]
        await send(message)

      try:
        await app(scope, receive, noted)
      finally:
        route = getattr(scope.get("route"), "path", _OTHER)
        self._requests.labels(route, status or "none").inc()
        self._seconds.labels(route).observe(time.monotonic() - start)

    return counted
