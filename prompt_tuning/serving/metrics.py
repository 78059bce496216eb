"""The metrics that a server offers to Prometheus."""

from collections.abc import Mapping, Sequence
import dataclasses
import functools
from typing import Any

import jax
import prometheus_client
from prometheus_client import core

from prompt_tuning.inference.batches import Batch
from prompt_tuning.inference.compiled import PromptTable
from prompt_tuning.inference.engine import Engine
from prompt_tuning.inference.requests import Request
from prompt_tuning.serving.prompt_store import PromptStore
from prompt_tuning.tuning_jobs import owners

_SECONDS = (0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30, 60, 120)
_ROWS = (1, 2, 4, 8, 16, 32, 64)
# The common label of all prompts that tenants own.
_OWNED = "(owned)"
# The number of prompts that get a separate label, and the label of the others.
_MOST_NAMED, _OTHERS = 500, "(others)"


@dataclasses.dataclass(frozen=True)
class _Swaps:
  """A counter whose value is in the table of prompts."""

  table: PromptTable

  def collect(self) -> list[core.Metric]:
    text = "Prompts that were copied to the device."
    name = "prompt_tuning_prompt_swaps"
    return [core.CounterMetricFamily(name, text, self.table.swaps)]


class Metrics:
  """The metrics of one server, in a separate registry."""

  def __init__(self):
    """Starts at zero."""
    self._registry = prometheus_client.CollectorRegistry()
    prometheus_client.ProcessCollector(registry=self._registry)
    shared: Any = {"namespace": "prompt_tuning", "registry": self._registry}
    counter = functools.partial(prometheus_client.Counter, **shared)
    histogram = functools.partial(prometheus_client.Histogram, **shared)
    self._gauge = functools.partial(prometheus_client.Gauge, **shared)
    self._requests = counter("requests", "HTTP requests.", ["route", "status"])
    self._seconds = histogram(
      "request_seconds",
      "Time to the end of a response.",
      ["route"],
      buckets=_SECONDS,
    )
    self._answers = counter("answers", "Inputs answered.", ["prompt", "kind"])
    self._named: set[str] = set()
    self._queue_seconds = histogram(
      "queue_seconds", "Time in the queue.", ["kind"], buckets=_SECONDS
    )
    self._first_seconds = histogram(
      "first_token_seconds",
      "Time from arrival to the first tokens of an answer.",
      buckets=_SECONDS,
    )
    self._jobs = self._gauge("jobs", "Tuning jobs.", ["status"])
    self._tokens = counter(
      "tokens",
      "Tokens that batches read, prompts included, and wrote.",
      ["direction"],
    )
    self._batch_rows = histogram(
      "batch_requests", "Inputs of a batch.", ["kind"], buckets=_ROWS
    )
    self._batch_seconds = histogram(
      "batch_seconds",
      "Time of a batch, from its first step to its last.",
      ["kind"],
      buckets=_SECONDS,
    )

  def watch(self, engine: Engine, store: PromptStore) -> None:
    """Adds gauges, which are computed when they are read."""
    table = engine.table
    for name, text, value in (
      ("queue", "Inputs that wait.", lambda: engine.queued),
      ("running", "Inputs in a running batch.", lambda: engine.running),
      ("ready", "1 if requests are answered.", lambda: engine.is_ready),
      ("prompts", "Prompts that are served.", lambda: len(store.all())),
      (
        "prompt_host_bytes",
        "Memory of all prompts on the host.",
        lambda: sum(x.array.nbytes for x in store.all().values()),
      ),
      ("prompts_on_device", "Prompts on the device.", lambda: table.occupied),
      (
        "prompt_table_bytes",
        "Memory of the table of prompts on the device.",
        lambda: table.nbytes,
      ),
      (
        "model_bytes",
        "Memory of the frozen model's parameters.",
        lambda: sum(x.nbytes for x in jax.tree.leaves(engine.model.params)),
      ),
      (
        "array_bytes",
        "Memory of all arrays: the model, the table, and batches.",
        lambda: sum(x.nbytes for x in jax.live_arrays()),
      ),
    ):
      self._gauge(name, text).set_function(value)
    self._registry.register(_Swaps(table))

  def count_batch(self, done: Batch) -> None:
    """Counts a batch; called by the engine."""
    kind = done.shape.kind
    self._batch_rows.labels(kind).observe(len(done.tickets))
    self._batch_seconds.labels(kind).observe(done.seconds)
    for ticket in done.tickets:
      waited = done.started - ticket.arrived
      self._queue_seconds.labels(kind).observe(waited)
      if kind == "generate" and done.first_answer:
        self._first_seconds.observe(done.first_answer - ticket.arrived)
    self._tokens.labels("in").inc(done.input_tokens)
    self._tokens.labels("out").inc(done.output_tokens)

  def count_answers(
    self, model: str, kind: str, rows: Sequence[Request]
  ) -> None:
    """Counts answered inputs, without the names of owned prompts."""
    prompt = rows[0].prompt
    if prompt is not None and owners.split(prompt.name)[1]:
      model = _OWNED
    elif len(self._named) < _MOST_NAMED:
      self._named.add(model)
    elif model not in self._named:
      model = _OTHERS
    self._answers.labels(model, kind).inc(len(rows))

  def count_jobs(self, counts: Mapping[str, int]) -> None:
    """Sets the number of jobs for each status."""
    for status, number in counts.items():
      self._jobs.labels(status).set(number)

  def count_request(self, route: str, status: int, seconds: float) -> None:
    """Counts a request; its status is 0 if it got no response."""
    self._requests.labels(route, status or "none").inc()
    self._seconds.labels(route).observe(seconds)

  def text(self, prompts: set[str]) -> bytes:
    """Returns all metrics in Prometheus's format, without removed prompts."""
    for name in self._named - prompts:
      self._answers.remove_by_labels({"prompt": name})
    self._named &= prompts
    return prometheus_client.generate_latest(self._registry)
