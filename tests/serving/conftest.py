"""Fixtures: a server, its jobs, and a client."""

from engines import *  # noqa: F403  # Fixtures.
from fastapi import testclient
import openai
import pytest
import served

from prompt_tuning.serving import app
from prompt_tuning.tuning_jobs.job_store import JobStore


@pytest.fixture
def service(engine, prompts, tmp_path):
  """A server with two prompts, without sockets."""
  service = served.make_service(engine, tmp_path / "prompts")
  for prompt in prompts[:2]:
    service.store.put(prompt.name, served.npy(prompt.array))
  return service


@pytest.fixture
def store(service, tmp_path):
  """The server's store of files and jobs, which has no worker."""
  service.jobs = JobStore(tmp_path / "jobs", "another", "fingerprint")
  return service.jobs


@pytest.fixture
def client(service):
  """OpenAI's client, connected to the server."""
  http = testclient.TestClient(app.make(service))
  address = "http://served/v1"
  with openai.OpenAI(api_key="any", base_url=address, http_client=http) as it:
    yield it
