"""A server without sockets, for tests."""

import asyncio
import contextlib
import io

import httpx
import numpy as np

from prompt_tuning.serving import app
from prompt_tuning.serving.gate import Limits
from prompt_tuning.serving.metrics import Metrics
from prompt_tuning.serving.prompt_store import PromptStore
from prompt_tuning.serving.service import Service

BASE = "tiny"


def make_service(engine, folder, **limits) -> Service:
  metrics = Metrics()
  store = PromptStore(folder, engine, BASE)
  metrics.watch(engine, store)
  return Service(BASE, engine, store, metrics, Limits(**limits))


def client(service, *routers, **options) -> httpx.AsyncClient:
  return httpx.AsyncClient(
    transport=httpx.ASGITransport(app.make(service, *routers)),
    base_url="http://served",
    **options,
  )


def send(service, method, path, *routers, **options) -> httpx.Response:
  """Sends one request."""

  async def run():
    async with client(service, *routers) as requests:
      return await requests.request(method, path, **options)

  return asyncio.run(run())


def npy(array) -> bytes:
  buffer = io.BytesIO()
  np.save(buffer, np.asarray(array, np.float32))
  return buffer.getvalue()


@contextlib.contextmanager
def unchanged(service):
  """Checks that the prompts are what they were."""

  def state():
    files = service.store.folder.iterdir()
    return {path.name: path.read_bytes() for path in files}

  before = state()
  yield
  assert state() == before
