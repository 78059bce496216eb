"""Fixtures: a store of jobs, and a function that fills it."""

import json

import pytest

from prompt_tuning.tuning_jobs import jobs
from prompt_tuning.tuning_jobs.job_store import JobStore

LINE = json.dumps({"prompt": "a", "completion": "b"}).encode()


@pytest.fixture
def store(tmp_path):
  (tmp_path / "prompts").mkdir()
  return JobStore(tmp_path / "jobs", "base")


@pytest.fixture
def queue(store):
  """Returns a function that queues a job of one example."""

  def add(store=store, **settings):
    file = store.add_file("data.jsonl", LINE)
    return store.add_job(file.id, None, "mine", jobs.Settings(**settings))

  return add
