"""The readers of requests, uploads and tuning jobs."""

import json
import pathlib
import sqlite3
import tempfile
from typing import Any

from fuzz.models_readers import NUMPY, PROMPT, TENSORS
from fuzz.reader import Reader, file, lines, made
import pydantic
import safetensors.numpy
import served

from prompt_tuning.interop import peft_adapters
from prompt_tuning.serving import prompt_store, schemas, tenants
from prompt_tuning.tuning_jobs import job_store, jobs, on_cluster


def _jobs(folder: pathlib.Path) -> None:
  store = job_store.JobStore(folder, "base", "52cb")
  line = json.dumps({"prompt": "a", "completion": "b"}).encode()
  file = store.add_file("x.jsonl", line)
  job = store.add_job(file.id, None, "mine", jobs.Settings())
  store.add_event(job, "notice", "text", {"step": 1})


def _read_jobs(path: pathlib.Path) -> None:
  store = job_store.JobStore(path.parent, "base", "52cb")
  for job in store.jobs():
    store.events(job.id)
  store.files()


def _body(kind: type[pydantic.BaseModel], **fields: Any) -> Reader:
  """Returns a reader of a request's body; the server names the field."""
  return file(
    "body.json",
    json.dumps(fields),
    lambda path: kind.model_validate_json(path.read_bytes()),
    called="",
    errors=(pydantic.ValidationError,),
  )


def _upload(content: bytes) -> Reader:
  """Returns a reader of an upload; the server names the field."""

  def read(path: pathlib.Path) -> None:
    with tempfile.TemporaryDirectory() as scratch:
      prompt_store._parse(path.read_bytes(), pathlib.Path(scratch), "")

  return file("upload", content, read, called="")


_ZIPPED = served.zipped(
  {
    peft_adapters.CONFIG: json.dumps(
      {
        "peft_type": "PROMPT_TUNING",
        "task_type": "SEQ_2_SEQ_LM",
        "num_virtual_tokens": 3,
      }
    ),
    peft_adapters.WEIGHTS: safetensors.numpy.save(
      {"prompt_embeddings": PROMPT}
    ),
  }
)

READERS: dict[str, Reader] = {
  "events of a cluster": file(
    "events.jsonl",
    lines({"kind": "train", "step": 1, "first_step": 0, "last_step": 2}),
    lambda path: on_cluster._forward_events(path.parent, lambda event: None),
    writes=True,
  ),
  # The server answers that the store is damaged.
  "store of jobs": made(
    _jobs,
    "jobs.sqlite",
    _read_jobs,
    called="",
    errors=(sqlite3.Error,),
    writes=True,
  ),
  "data set of a job": file(
    "x.jsonl",
    lines({"prompt": "a", "completion": "b"}),
    lambda path: list(jobs.parse_examples(path.read_bytes())),
    called="",
  ),
  "upload, safetensors": _upload(TENSORS),
  "upload, npy": _upload(NUMPY),
  "upload, zip": _upload(_ZIPPED),
  "completion": _body(schemas.Completion, model="a", prompt=["b"], stop=["c"]),
  "chat": _body(
    schemas.Chat, model="a", messages=[{"role": "user", "content": "b"}]
  ),
  "rank": _body(schemas.Rank, model="a", prompt=[1, 2], labels=["yes", "no"]),
  "job": _body(
    schemas.NewJob,
    model="a",
    training_file="b",
    hyperparameters={"n_epochs": 3, "learning_rate_multiplier": 0.5},
  ),
  "keys": file("keys", "sk-1 a # one\nsk-2\n", tenants.read_keys),
}
