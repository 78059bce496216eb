"""A server for tests, without sockets by default."""

import asyncio
import contextlib
import io
import re
import threading
import time
import zipfile

import httpx
import numpy as np
import uvicorn

from prompt_tuning.serving import app
from prompt_tuning.serving.metrics import Metrics
from prompt_tuning.serving.prompt_store import PromptStore
from prompt_tuning.serving.service import Service
from prompt_tuning.serving.tenants import Limits

BASE = "tiny"
COMPLETIONS = "/v1/completions"


def make_service(engine, folder, **limits) -> Service:
  metrics = Metrics()
  store = PromptStore(folder, engine, BASE)
  metrics.watch(engine, store)
  return Service(BASE, engine, store, metrics, Limits(**limits))


@contextlib.contextmanager
def running(server: uvicorn.Server):
  """Runs a server in a thread; yields its address."""
  thread = threading.Thread(target=server.run)
  thread.start()
  try:
    while not server.started:
      assert thread.is_alive()
      time.sleep(0.01)
    port = server.servers[0].sockets[0].getsockname()[1]
    yield f"http://127.0.0.1:{port}"
  finally:
    server.should_exit = True
    thread.join()


def client(service, **options) -> httpx.AsyncClient:
  transport = httpx.ASGITransport(app.make(service), raise_app_exceptions=False)
  return httpx.AsyncClient(
    transport=transport, base_url="http://served", **options
  )


def send_all(service, requests, together=False) -> list[httpx.Response]:
  """Sends each (method, path, options) to one server, in turn or at once."""

  async def run():
    async with client(service) as http:
      sent = [
        http.request(method, path, **options)
        for method, path, options in requests
      ]
      if together:
        return await asyncio.gather(*sent)
      return [await response for response in sent]

  return asyncio.run(run())


def send(service, method, path, **options) -> httpx.Response:
  """Sends one request."""
  return send_all(service, [(method, path, options)])[0]


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


def zipped(files, kind=zipfile.ZIP_DEFLATED) -> bytes:
  """Makes an archive from name -> content."""
  buffer = io.BytesIO()
  with zipfile.ZipFile(buffer, "w", kind) as archive:
    for name, content in files.items():
      archive.writestr(name, content)
  return buffer.getvalue()


def check_error(response, status, message, *param) -> None:
  """Checks that an error has OpenAI's form and hides the server's internals.

  With `param`, the error must blame that field; with "", no field.
  """
  assert response.status_code == status, response.text
  error = response.json()["error"]
  assert set(error) == {"message", "type", "param", "code"}
  assert re.search(message, error["message"]), error
  assert param in ((), (error["param"] or "",)), error
  assert "Traceback" not in response.text
  assert "/tmp" not in response.text


@contextlib.contextmanager
def unchanged(service):
  """Checks that the stored prompts do not change."""

  def state():
    files = service.store.folder.iterdir()
    return {path.name: path.read_bytes() for path in files}

  before = state()
  yield
  assert state() == before
