"""Requests that a server refuses, and how."""

import asyncio
import json
import sys
import time

import numpy as np
import pytest
import served
import tiny

from prompt_tuning import prompt_files
from prompt_tuning.commands import console
from prompt_tuning.data import vocabulary as vocabulary_lib

COMPLETIONS = served.COMPLETIONS


def _safetensors(engine, array, **changes):
  metadata = prompt_files.PromptMetadata(
    **{
      "base_fingerprint": engine.model.fingerprint,
      "vocabulary_sha256": vocabulary_lib.sha256(engine.model.vocabulary),
      **changes,
    }
  )
  return prompt_files.content(array, metadata, ".safetensors")


_ONES = np.ones((2, tiny.WIDTH), np.float32)
_SCORED = prompt_files.content(
  _ONES, prompt_files.PromptMetadata("a", "b", score=1.0), ".safetensors"
)
_HEADER = json.dumps(
  {"prompt": {"dtype": "F8_E5M2", "shape": [1, 2], "data_offsets": [0, 2]}}
).encode()
_F8 = len(_HEADER).to_bytes(8, "little") + _HEADER + b"00"
_DEEP = "[" * 100_000
GOOD = {"model": "prompt_1", "prompt": "a"}
PUT = ("PUT", "/v1/prompts/bad")
# (method, path), what is sent, status, and what the message says.
BAD = {
  "no JSON": (COMPLETIONS, {"content": b"{"}, 400, "dictionary|JSON"),
  "broken JSON": (
    COMPLETIONS,
    {
      "content": b'{"model": ',
      "headers": {"content-type": "application/json"},
    },
    400,
    "JSON",
  ),
  "deep JSON": (
    COMPLETIONS,
    {"content": _DEEP, "headers": {"content-type": "application/json"}},
    400,
    "parsing the body",
  ),
  "a list": (COMPLETIONS, {"json": []}, 400, "dictionary"),
  "no model": (COMPLETIONS, {"json": {"prompt": "a"}}, 400, "model"),
  "no input": (
    COMPLETIONS,
    {"json": {**GOOD, "prompt": []}},
    400,
    "input",
  ),
  "half a character": (
    COMPLETIONS,
    {
      "content": b'{"model": "prompt_1", "prompt": "\\ud800"}',
      "headers": {"content-type": "application/json"},
    },
    400,
    "surrogates not allowed",
  ),
  "a number": (
    COMPLETIONS,
    {"json": {**GOOD, "prompt": 3}},
    400,
    "prompt",
  ),
  "tokens": (
    COMPLETIONS,
    {"json": {**GOOD, "prompt": [-1]}},
    400,
    "tokens",
  ),
  "huge token": (
    COMPLETIONS,
    {"json": {**GOOD, "prompt": [10**9]}},
    400,
    "tokens",
  ),
  "unknown model": (
    COMPLETIONS,
    {"json": {**GOOD, "model": "../etc"}},
    404,
    "no model",
  ),
  "long input": (
    COMPLETIONS,
    {"json": {**GOOD, "prompt": "a" * 99}},
    400,
    "at most 24",
  ),
  "negative length": (
    COMPLETIONS,
    {"json": {**GOOD, "max_tokens": -1}},
    400,
    "max_tokens",
  ),
  "long answer": (
    COMPLETIONS,
    {"json": {**GOOD, "max_tokens": 99}},
    400,
    "at most 8",
  ),
  "hot": (
    COMPLETIONS,
    {"json": {**GOOD, "temperature": 3}},
    400,
    "temperat",
  ),
  "NaN": (
    COMPLETIONS,
    {
      "content": b'{"model": "prompt_1", "prompt": "a", "temperature": NaN}',
      "headers": {"content-type": "application/json"},
    },
    400,
    "temperature",
  ),
  "many samples": (COMPLETIONS, {"json": {**GOOD, "n": 999}}, 400, "n:"),
  "log probabilities": (
    COMPLETIONS,
    {"json": {**GOOD, "logprobs": 6}},
    400,
    "logprobs",
  ),
  "beams": (
    COMPLETIONS,
    {"json": {**GOOD, "max_tokens": 8, "num_beams": 3}},
    400,
    "num_beams",
  ),
  "beam samples": (
    COMPLETIONS,
    {"json": {**GOOD, "num_beams": 2, "max_tokens": 8, "temperature": 1}},
    400,
    "Beam search",
  ),
  "not supported": (
    COMPLETIONS,
    {"json": {**GOOD, "top_p": 0.5}},
    400,
    "top_p",
  ),
  "not known": (
    COMPLETIONS,
    {"json": {**GOOD, "top_k": 1}},
    400,
    "top_k",
  ),
  "many stops": (
    COMPLETIONS,
    {"json": {**GOOD, "stop": ["a"] * 5}},
    400,
    "stop",
  ),
  "no labels": ("/v1/rank", {"json": {**GOOD, "labels": []}}, 400, "labels"),
  "empty label": (
    "/v1/rank",
    {"json": {**GOOD, "labels": [""]}},
    400,
    "vocabulary knows",
  ),
  "same labels": (
    "/v1/rank",
    {"json": {**GOOD, "labels": ["a", "a"]}},
    400,
    "differ",
  ),
  "unknown path": ("/v1/nothing", {}, 404, "Not Found"),
  "huge body": (COMPLETIONS, {"content": b" " * 2**21}, 413, "at most"),
  "wrong method": (("PATCH", COMPLETIONS), {}, 405, "Not Allowed"),
  "path as a name": (
    ("PUT", "/v1/prompts/..%2f..%2fetc"),
    {"content": served.npy(_ONES)},
    404,
    "Not Found",
  ),
  "dots as a name": (
    ("PUT", "/v1/prompts/.hidden"),
    {"content": served.npy(_ONES)},
    400,
    "Expected a name",
  ),
  "the base's name": (
    ("PUT", f"/v1/prompts/{served.BASE}"),
    {"content": served.npy(_ONES)},
    400,
    "the model alone",
  ),
  "no prompt": (PUT, {"content": b"hello"}, 400, "not a safetensors"),
  "NaN in a prompt": (
    PUT,
    {"content": served.npy(_ONES * np.nan)},
    400,
    "NaN or infinite",
  ),
  # No JSON has it, and so no list of the prompts.
  "NaN as a score": (
    PUT,
    {"content": _SCORED.replace(b'"1.0"', b'"nan"')},
    400,
    "a finite score, got nan",
  ),
  "a type that is not NumPy's": (PUT, {"content": _F8}, 400, "NumPy"),
  "truths as a shape": (
    PUT,
    {"content": served.npy(_ONES).replace(b"(2, ", b"(True,")},
    400,
    "NumPy array file",
  ),
  "wrong width": (PUT, {"content": served.npy(np.ones((2, 3)))}, 400, "width"),
  "long prompt": (
    PUT,
    {"content": served.npy(np.ones((7, tiny.WIDTH)))},
    400,
    "at most 6",
  ),
  "no archive": (PUT, {"content": b"PK nothing"}, 400, "zip archive"),
  "another archive": (
    PUT,
    {"content": served.zipped(a__txt="a")},
    400,
    "PEFT adapter",
  ),
  "another adapter": (
    PUT,
    {"content": served.zipped(adapter_config__json='{"peft_type": "LORA"}')},
    400,
    "expected an adapter of type PROMPT_TUNING",
  ),
  "many adapters": (
    PUT,
    {
      "content": served.zipped(
        adapter_config__json="{}", **{"a/adapter_config__json": "{}"}
      )
    },
    400,
    "adapter_config.json twice",
  ),
  "a pickle": (
    PUT,
    {"content": b"\x80\x04\x95\x00\x00\x00."},
    400,
    "not a safetensors",
  ),
  "delete the model": (
    ("DELETE", f"/v1/prompts/{served.BASE}"),
    {},
    400,
    "cannot be deleted",
  ),
  "delete nothing": (("DELETE", "/v1/prompts/none"), {}, 404, "no model"),
}


def test_bad_requests_are_refused(service):
  with served.unchanged(service):
    for name, (place, options, status, message) in BAD.items():
      method, path = place if isinstance(place, tuple) else ("POST", place)
      response = served.send(service, method, path, **options)
      try:
        served.check_error(response, status, message)
      except AssertionError as error:
        raise AssertionError(f"{name}: {error}") from error
  assert served.complete(service).status_code == 200


def test_too_many_inputs_are_refused_before_they_are_tokens(
  service, monkeypatch
):
  """A megabyte holds enough of them, times n, to fill the memory."""
  encoded = []
  monkeypatch.setattr(service.engine, "tokens_of", encoded.append)
  for body in (
    {"prompt": ["a"] * 33, "n": 2},
    {"prompt": [[5]] * 65},
    {"prompt": ["a"] * 100_000, "n": 128},
  ):
    response = served.complete(service, **body)
    served.check_error(response, 400, "at most 64 inputs, samples included")
  body = {"model": "prompt_1", "prompt": ["a"] * 65, "labels": ["b"]}
  monkeypatch.setattr(service.engine, "tokens_of", lambda text: (5, 1))
  response = served.send(service, "POST", "/v1/rank", json=body)
  served.check_error(response, 400, "at most 64 inputs")
  assert not encoded


@pytest.mark.parametrize(
  ("path", "changes", "param"),
  [
    ("/v1/completions", {"prompt": 3}, "prompt"),
    ("/v1/completions", {"prompt": "a" * 99}, "prompt"),
    ("/v1/completions", {"max_tokens": 99}, "max_tokens"),
    (
      "/v1/completions",
      {"stream": True, "stream_options": {"include_usage": "x"}},
      "stream_options.include_usage",
    ),
    ("/v1/rank", {"labels": ["a", 3]}, "labels"),
    ("/v1/rank", {"labels": ["a" * 20, "b" * 999]}, "labels"),
  ],
)
def test_refusal_names_the_field(service, path, changes, param):
  response = served.send(service, "POST", path, json={**GOOD, **changes})
  served.check_error(response, 400, ".")
  assert response.json()["error"]["param"] == param


def test_one_wrong_item_is_enough(service):
  """A megabyte of them would take seconds, in which nobody is answered."""
  start = time.process_time()
  for prompt in ([{}] * 200_000, [[{}] * 200_000]):
    response = served.complete(service, prompt=prompt)
    served.check_error(response, 400, "prompt")
  assert time.process_time() - start < 2


def test_prompt_of_nan_is_refused_in_a_line(service):
  content = served.npy(np.full((10_000, tiny.WIDTH), np.nan))
  response = served.send(service, *PUT, content=content)
  served.check_error(response, 400, r"rows \[0, 1, 2, 3, 4\] and more")
  assert len(response.content) < 300


def test_prompt_of_another_base_is_refused_with_both_names(service, engine):
  content = _safetensors(engine, _ONES, base_fingerprint="another")
  with served.unchanged(service):
    response = served.send(service, *PUT, content=content)
  served.check_error(response, 400, "trained with another")
  assert engine.model.fingerprint in response.json()["error"]["message"]
  content = _safetensors(engine, _ONES)
  assert served.send(service, *PUT, content=content).status_code == 201


def test_prompt_with_a_long_header_is_refused(service, engine):
  """Each list of models would have it."""
  content = _safetensors(engine, _ONES, task="x" * 1001)
  with served.unchanged(service):
    response = served.send(service, *PUT, content=content)
  served.check_error(response, 400, "at most 1000 characters, got more in task")


def test_full_queue_answers_429(service):
  response = served.complete(service, prompt=["a"] * 65)
  served.check_error(response, 400, "at most 64")

  async def run():
    body = {**GOOD, "prompt": ["a"] * 40, "max_tokens": 8}
    async with served.client(service) as http:
      answers = await asyncio.gather(
        *(http.post(COMPLETIONS, json=body) for _ in range(6))
      )
    statuses = {x.status_code for x in answers}
    assert statuses == {200, 429}
    for answer in answers:
      if answer.status_code == 429:
        served.check_error(answer, 429, "waiting")
        assert int(answer.headers["retry-after"]) > 0
    return answers

  asyncio.run(run())
  assert served.complete(service).status_code == 200


def test_answer_that_takes_too_long_is_given_up(engine, tmp_path):
  service = served.make_service(
    engine, tmp_path / "prompts", answer_seconds=0.0
  )
  body = {"model": served.BASE, "prompt": "a", "max_tokens": 8}
  response = served.send(service, "POST", COMPLETIONS, json=body)
  served.check_error(response, 504, "No answer within")
  stream = served.send(
    service, "POST", COMPLETIONS, json={**body, "stream": True}
  )
  first = json.loads(stream.text.split("\n")[0].removeprefix("data: "))
  assert first["error"]["code"] == "timeout"


def test_command_line_says_what_is_wrong(tmp_path, capsys):
  for arguments, message in (
    (["--checkpoint=none"], "none"),
    (["--checkpoint=checkpoints/ladder_xs/lm_100", "--keys=none"], "none"),
    (["--checkpoint=none", "--submit=slurm"], "--submit is for --jobs"),
    (["--checkpoint=none", "--longest_prompt=511"], "expected 1 to 510"),
    (["--checkpoint=none", "--lengths=2"], "The least is --lengths=3"),
    (["--checkpoint=none", "--slots=0"], "--slots: expected 1 or more, got 0"),
    (["--checkpoint=none", "--beams=-1"], "expected 0 or more, got '-1'"),
    (["--checkpoint=none", "--lengths=64,x"], "expected 0 or more, got 'x'"),
    (["--checkpoint=none", "--patience=nan"], "expected 0 or more, got 'nan'"),
  ):
    words = ["serve", *arguments, f"--prompts={tmp_path}", "--jobs="]
    with pytest.raises(SystemExit):
      sys.exit(console.main(words))
    assert message in capsys.readouterr().err


def test_jobs_that_cannot_be_opened_are_told(tmp_path, capsys):
  (tmp_path / "jobs.sqlite").mkdir()
  words = ["--checkpoint=checkpoints/ladder_xs/lm_100", f"--jobs={tmp_path}"]
  words.append(f"--prompts={tmp_path / 'prompts'}")
  assert console.main(["serve", *words]) == 1
  assert "Error: unable to open database file" in capsys.readouterr().err


def test_engine_that_failed_is_not_about_to_start(service, monkeypatch):
  monkeypatch.setattr(service.engine, "failure", RuntimeError())
  for path in ("/readyz", "/healthz"):
    response = served.send(service, "GET", path)
    served.check_error(response, 500, "The engine failed")
  monkeypatch.setattr(service.engine, "_is_closed", True)
  # Another replica may answer it.
  served.check_error(served.complete(service), 503, "The engine failed")
