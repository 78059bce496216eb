"""A server without sockets, for tests."""

import asyncio
import contextlib
import io
import re
import zipfile

import httpx
import numpy as np

from prompt_tuning.serving import app
from prompt_tuning.serving.gate import Limits
from prompt_tuning.serving.metrics import Metrics
from prompt_tuning.serving.prompt_store import PromptStore
from prompt_tuning.serving.service import Service

BASE = "tiny"
COMPLETIONS = "/v1/completions"


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


def complete(service, **body):
  return send(
    service,
    "POST",
    COMPLETIONS,
    json={"model": "prompt_1", "prompt": "abc", "max_tokens": 5, **body},
  )


def npy(array) -> bytes:
  buffer = io.BytesIO()
  np.save(buffer, np.asarray(array, np.float32))
  return buffer.getvalue()


def zipped(**files) -> bytes:
  """Makes an archive; "__" stands for the dot of a name."""
  buffer = io.BytesIO()
  with zipfile.ZipFile(buffer, "w") as archive:
    for name, content in files.items():
      archive.writestr(name.replace("__", "."), content)
  return buffer.getvalue()


def check_error(response, status, message) -> None:
  """Checks that it has OpenAI's form, and tells nothing of the server."""
  assert response.status_code == status, response.text
  error = response.json()["error"]
  assert set(error) == {"message", "type", "param", "code"}
  assert re.search(message, error["message"]), error
  assert "Traceback" not in response.text
  assert "/tmp" not in response.text


@contextlib.contextmanager
def unchanged(service):
  """Checks that the prompts are what they were."""

  def state():
    files = service.store.folder.iterdir()
    return {path.name: path.read_bytes() for path in files}

  before = state()
  yield
  assert state() == before
