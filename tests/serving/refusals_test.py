"""Tests of requests that a server refuses."""

import json
import pathlib
import socket
import time
import tomllib
from unittest import mock

import documented
import ml_dtypes
import numpy as np
import pytest
import safetensors.numpy
import served
import tiny

from prompt_tuning import prompt_files
from prompt_tuning.commands import console
from prompt_tuning.data import vocabulary as vocabulary_lib
from prompt_tuning.inference import batches
from prompt_tuning.interop import peft_adapters
from prompt_tuning.serving.tenants import Limits

LADDER = documented.ROOT / "checkpoints" / "ladder_xs" / "lm_100"
COMPLETIONS, RANK = served.COMPLETIONS, "/v1/rank"
GOOD = {"model": "prompt_1", "prompt": "a"}
_LISTENER = socket.create_server(("127.0.0.1", 0))
TAKEN = _LISTENER.getsockname()[1]
PUT = ("PUT", "/v1/prompts/bad")
_ONES = np.ones((2, tiny.WIDTH), np.float32)
_F8 = safetensors.numpy.save({"prompt": _ONES.astype(ml_dtypes.float8_e5m2)})
_LONG_TASK = safetensors.numpy.save(
  {"prompt": _ONES},
  prompt_files.to_header(prompt_files.PromptMetadata("a", "b"), _ONES)
  | {"task": "x" * 1001},
)
_LONG_BASE = {
  peft_adapters.CONFIG: json.dumps(
    {
      "peft_type": "PROMPT_TUNING",
      "task_type": "CAUSAL_LM",
      "num_virtual_tokens": 2,
      "base_model_name_or_path": "x" * 1001,
    }
  ),
  peft_adapters.WEIGHTS: safetensors.numpy.save({"prompt_embeddings": _ONES}),
}

# Table -> a path, a correct body, and wrong fields.
FIELDS = tomllib.loads(
  pathlib.Path(__file__).with_name("refusals.toml").read_text()
)
# Bodies that are not JSON objects, and a part of the message.
BODIES = [
  (b"{", "JSON"),
  (b'{"model": ', "JSON"),
  (b"[" * 100_000, "parsing the body"),
  (b"[]", "dictionary"),
  (b'{"model": "prompt_1", "prompt": "\\ud800"}', "surrogates not allowed"),
  (b'{"model": "a", "prompt": "a", "temperature": NaN}', "temperature"),
]
_ODD_ROLE = b'{"model": "a", "messages": [{"role": "\\ud800"}]}'
# Uploads that are not prompts for this model, and a part of the message.
UPLOADS = [
  (b"hello", "not a safetensors"),
  (_F8, "NumPy"),
  (served.npy(_ONES).replace(b"(2, ", b"(True,"), "NumPy array file"),
  (served.npy(np.ones((2, 3))), "width"),
  (served.npy(np.ones((7, tiny.WIDTH))), "at most 6"),
  (b"PK nothing", "is not a zip file"),
  (served.zipped({"a.txt": "a"}), "PEFT adapter"),
  (
    served.zipped(
      dict.fromkeys(("adapter_config.json", "a/adapter_config.json"), "{}")
    ),
    "adapter_config.json twice",
  ),
  # Each list of models would repeat the task.
  (_LONG_TASK, "at most 1000 characters, got more in task"),
  # No server would read the prompt's file.
  (served.zipped(_LONG_BASE), "at most 1000 characters, got more in base"),
]
# Method, path, content, status, and a part of the message.
PLACES = [
  ("GET", "/v1/nothing", b"", 404, "Not Found"),
  ("POST", "/v1/nothing", b"", 404, "Not Found"),
  ("PATCH", COMPLETIONS, b"", 405, "Not Allowed"),
  ("POST", COMPLETIONS, b'{"model": "../etc", "prompt": "a"}', 404, "no model"),
  ("POST", "/v1/chat/completions", _ODD_ROLE, 400, "surrogates not allowed"),
  ("GET", "/v1/models/..%2fetc", b"", 404, "no model"),
  ("PUT", "/v1/prompts/..%2f..%2fetc", served.npy(_ONES), 404, "Not Found"),
  ("PUT", "/v1/prompts/.hidden", served.npy(_ONES), 400, "Expected a name"),
  ("PUT", f"/v1/prompts/{served.BASE}", served.npy(_ONES), 400, "base model"),
  ("GET", f"/v1/prompts/{served.BASE}", b"", 400, "has no prompt"),
  ("DELETE", f"/v1/prompts/{served.BASE}", b"", 400, "cannot be deleted"),
  ("DELETE", "/v1/prompts/none", b"", 404, "no model"),
  ("GET", f"/v1/prompts/{served.BASE}/words", b"", 400, "has no prompt"),
  ("GET", "/v1/prompts/none/words", b"", 404, "no model"),
  ("GET", "/v1/prompts/prompt_1/words?count=0", b"", 400, "count"),
  ("GET", "/v1/models?after=gone", b"", 400, "no 'gone'.*have been deleted"),
]


def test_requests_are_refused(service):
  """Refusals name the wrong field, and no prompt changes."""
  headers = {"content-type": "application/json"}
  cases = [
    ("POST", x["path"], json.dumps(x["right"] | fields), 400, message, param)
    for x in FIELDS.values()
    for fields, param, message in x["rows"]
  ]
  cases += [("POST", COMPLETIONS, x, 400, message) for x, message in BODIES]
  cases += PLACES
  requests = [
    (method, path, {"content": content, "headers": headers})
    for method, path, content, *_ in cases
  ]
  with served.unchanged(service):
    responses = served.send_all(service, requests)
  for response, case in zip(responses, cases, strict=True):
    _, _, _, status, message, *param = case
    served.check_error(response, status, message, *param)


@pytest.mark.parametrize("kind", ["application/x-www-form-urlencoded", ""])
def test_body_of_another_type_is_refused(service, kind):
  """Only JSON bodies are accepted; `curl --data` sends a form."""
  content, headers = json.dumps(GOOD), {"content-type": kind}
  response = served.send(
    service, "POST", COMPLETIONS, content=content, headers=headers
  )
  served.check_error(response, 400, "with Content-Type application/json")


def test_uploads_are_refused(service, engine):
  def safetensors(**changes):
    metadata = {
      "base_fingerprint": engine.model.fingerprint,
      "vocabulary_sha256": vocabulary_lib.sha256(engine.model.vocabulary),
    }
    return prompt_files.content(
      _ONES, prompt_files.PromptMetadata(**metadata | changes), ".safetensors"
    )

  other = safetensors(base_fingerprint="another")
  nan = served.npy(np.full((10_000, tiny.WIDTH), np.nan))
  uploads = [
    *UPLOADS,
    (other, f"{engine.model.fingerprint}.*trained with another"),
    (nan, r"rows \[0, 1, 2, 3, 4\] and more"),  # In one line.
  ]
  with served.unchanged(service):
    responses = served.send_all(
      service, [(*PUT, {"content": content}) for content, _ in uploads]
    )
  for response, (_, message) in zip(responses, uploads, strict=True):
    served.check_error(response, 400, message)
    assert len(response.content) < 500
  good = served.send(service, *PUT, content=safetensors())
  assert good.status_code == 201


def test_too_many_inputs_are_refused_before_they_are_tokens(
  service, monkeypatch
):
  """Too many inputs are refused before their tokens could fill the memory."""
  encoded = []
  monkeypatch.setattr(service.engine.model, "encode", encoded.append)
  for body in (
    {"prompt": ["a"] * 33, "n": 2},
    {"prompt": [[5]] * 65},
    {"prompt": ["a"] * 100_000, "n": 128},
  ):
    response = served.complete(service, **body)
    served.check_error(response, 400, "at most 64 inputs, samples included")
  body = {"model": "prompt_1", "prompt": ["a"] * 65, "labels": ["b"]}
  monkeypatch.setattr(service.engine.model, "encode", lambda text: (5, 1))
  response = served.send(service, "POST", RANK, json=body)
  served.check_error(response, 400, "at most 64 inputs")
  assert not encoded


def test_one_wrong_item_is_enough(service):
  """A megabyte of wrong items is refused without seconds of checks."""
  start = time.process_time()
  for prompt in ([{}] * 200_000, [[{}] * 200_000]):
    response = served.complete(service, prompt=prompt)
    served.check_error(response, 400, "prompt")
  assert time.process_time() - start < 2


def test_full_queue_answers_429(service):
  body = {**GOOD, "prompt": ["a"] * 40, "max_tokens": 8}
  posts = [("POST", COMPLETIONS, {"json": body})] * 6
  answers = served.send_all(service, posts, together=True)
  assert {x.status_code for x in answers} == {200, 429}
  for answer in answers:
    if answer.status_code == 429:
      served.check_error(answer, 429, "waiting")
      assert int(answer.headers["retry-after"]) > 0
  assert served.complete(service).status_code == 200


def test_answer_that_takes_too_long_is_given_up(service):
  service.limits = Limits(answer_seconds=0.0)
  body = {"model": served.BASE, "max_tokens": 8}
  served.check_error(served.complete(service, **body), 504, "No answer within")
  stream = served.complete(service, **body, stream=True)
  first = json.loads(stream.text.split("\n")[0].removeprefix("data: "))
  assert first["error"]["code"] == "timeout"


def test_failures_tell_clients_nothing(service, monkeypatch):
  engine = service.engine
  with monkeypatch.context() as patch:
    fail = mock.Mock(side_effect=RuntimeError("/tmp/secret"))
    patch.setattr(engine, "submit", fail)
    served.check_error(served.complete(service), 500, "The server failed")
  monkeypatch.setattr(engine, "_on_batch", service.metrics.count_batch)
  with monkeypatch.context() as patch:  # No field of the request is wrong.
    fail = mock.Mock(side_effect=ValueError("/tmp/secret"))
    patch.setattr(batches, "_encode", fail)
    served.check_error(served.complete(service), 500, "The server failed")
  assert served.complete(service).status_code == 200
  text = service.metrics.text(set()).decode()
  assert "prompt_tuning_first_token_seconds_sum " in text
  assert "prompt_tuning_first_token_seconds_sum -" not in text
  monkeypatch.setattr(engine, "failure", RuntimeError())
  # A failed engine is not reported as starting.
  for path in ("/readyz", "/healthz"):
    response = served.send(service, "GET", path)
    served.check_error(response, 500, "The engine failed")
  monkeypatch.setattr(engine, "_is_closed", True)
  # Status 503 lets another replica answer.
  served.check_error(served.complete(service), 503, "The engine failed")


@pytest.mark.parametrize(
  ("arguments", "message"),
  [
    (f"--checkpoint={LADDER} --jobs=.", "Error: unable to open database file"),
    # The port differs between pytest's workers; the test's id must not.
    pytest.param(
      f"--port={TAKEN}", f"--port={TAKEN} cannot be used", id="port taken"
    ),
  ],
)
def test_what_a_server_needs_is_named(
  tmp_path, monkeypatch, capsys, arguments, message
):
  """Errors name the cause; `mistakes.toml` has the other mistakes."""
  (tmp_path / "jobs.sqlite").mkdir()
  monkeypatch.chdir(tmp_path)
  words = "serve --prompts=prompts --jobs= --checkpoint=none --port=0"
  assert console.main([*words.split(), *arguments.split()])
  assert message in capsys.readouterr().err
