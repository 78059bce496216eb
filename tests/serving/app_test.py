"""The HTTP interface, as its clients see it."""

import asyncio
import io
import json
import re
import zipfile

import numpy as np
import openai
import pytest
import served
import tiny

from prompt_tuning import prompt_files
from prompt_tuning.data import vocabulary as vocabulary_lib
from prompt_tuning.interop import peft_adapters
from prompt_tuning.serving import command, gate
from prompt_tuning.serving.requests import Token
from prompt_tuning.serving.texts import Texts

COMPLETIONS = "/v1/completions"


@pytest.fixture
def service(engine, prompts, tmp_path):
  service = served.make_service(engine, tmp_path / "prompts")
  for prompt in prompts[:2]:
    service.store.put(prompt.name, served.npy(prompt.array))
  return service


def _complete(service, **body):
  return served.send(
    service,
    "POST",
    COMPLETIONS,
    json={"model": "prompt_1", "prompt": "abc", "max_tokens": 5, **body},
  )


def test_completion_is_the_model_s_answer(service, prompts):
  texts = ["abc", "abxc"]
  answer = _complete(service, prompt=texts).json()
  expected = service.engine.model.generate(texts, prompts[0].array, 5)
  assert [choice["text"] for choice in answer["choices"]] == expected
  assert answer["object"] == "text_completion"
  assert answer["usage"]["prompt_tokens"] == 4 + 5
  tokens = [list(service.engine.tokens_of(text)) for text in texts]
  same = _complete(service, prompt=tokens).json()
  assert same["choices"] == answer["choices"]
  base = _complete(service, model=served.BASE, prompt="abc").json()
  assert (
    base["choices"][0]["text"]
    == (service.engine.model.generate(["abc"], None, 5)[0])
  )


def test_samples_differ_and_a_seed_repeats_them(service):
  body = {"n": 4, "temperature": 1.5, "seed": 7}
  first = _complete(service, **body).json()["choices"]
  assert len({choice["text"] for choice in first}) > 1
  assert _complete(service, **body).json()["choices"] == first


def test_openai_s_client(service):
  """Completions, a stream, log probabilities, models."""

  async def run():
    async with served.client(service) as http:
      client = openai.AsyncOpenAI(
        api_key="any", base_url="http://served/v1", http_client=http
      )
      models = [model.id async for model in client.models.list()]
      assert models == [served.BASE, "prompt_1", "prompt_2"]
      arguments = {"model": "prompt_2", "prompt": "hello", "max_tokens": 8}
      whole = await client.completions.create(**arguments, logprobs=2)
      stream = await client.completions.create(
        **arguments, stream=True, stream_options={"include_usage": True}
      )
      chunks = [chunk async for chunk in stream]
      choices = [chunk.choices[0] for chunk in chunks[:-1]]
      (choice,) = whole.choices
      assert "".join(x.text for x in choices) == choice.text
      assert choices[-1].finish_reason == choice.finish_reason
      assert chunks[-1].usage == whole.usage
      assert len(choice.logprobs.tokens) == whole.usage.completion_tokens
      assert all(len(top) <= 2 for top in choice.logprobs.top_logprobs)
      with pytest.raises(openai.NotFoundError, match="There is no model"):
        await client.completions.create(model="none", prompt="a")

  asyncio.run(run())


def test_labels_have_probabilities(service, prompts):
  labels = ["yes", "no"]
  body = {"model": "prompt_2", "prompt": ["abc", "x"], "labels": labels}
  answer = served.send(service, "POST", "/v1/rank", json=body).json()
  expected = service.engine.model.rank(["abc", "x"], labels, prompts[1].array)
  for got, scores in zip(answer["data"], expected, strict=True):
    assert [x["label"] for x in got["labels"]] == list(scores)
    assert [x["log_likelihood"] for x in got["labels"]] == pytest.approx(
      list(scores.values()), abs=1e-4
    )
    assert sum(x["probability"] for x in got["labels"]) == pytest.approx(1)


def test_answer_ends_before_a_stop(engine):
  class Letters:
    """A token is a letter."""

    def decode(self, ids):
      return "".join(map(chr, ids))

  tokens = [Token(ord(x), 0.0) for x in "one two three"]
  texts = Texts(Letters(), ["tw", "three"])
  assert texts.whole(tokens) == ("one ", True)
  assert texts.whole(tokens[:5]) == ("one t", False)
  stream = texts.stream()
  assert "".join(stream.add(token) for token in tokens) == "one "
  assert stream.was_cut
  stream = texts.stream()
  sent = [stream.add(token) for token in tokens[:5]]
  assert "".join(sent) == "o"  # "ne t" may become a stop.
  assert "".join(sent) + stream.rest() == "one t"


def test_prompt_in_every_format(service, prompts):
  array = prompts[2].array
  path = "/v1/prompts/new"
  put = served.send(service, "PUT", path, content=served.npy(array))
  assert put.status_code == 201
  assert put.json()["prompt"] == {"length": len(array), "width": tiny.WIDTH}
  before = _complete(service, model="new").json()["choices"]
  for form in ("safetensors", "npy", "peft"):
    content = served.send(service, "GET", f"{path}?format={form}").content
    assert served.send(service, "DELETE", path).json()["deleted"]
    assert _complete(service, model="new").status_code == 404
    put = served.send(service, "PUT", path, content=content)
    assert put.status_code == 201, put.text
    assert _complete(service, model="new").json()["choices"] == before
    np.testing.assert_array_equal(service.store.get("new").array, array)


def test_files_that_others_write_are_served(service, prompts):
  folder = service.store.folder
  prompt_files.save_prompt(folder / "late.npy", prompts[3].array)
  (folder / "broken.npy").write_bytes(b"no")
  assert _complete(service, model="late").status_code == 200
  assert _complete(service, model="broken").status_code == 404
  (folder / "late.npy").unlink()
  service.store.refresh()
  assert _complete(service, model="late").status_code == 404


def test_metrics_say_what_happened(service, batches_done):
  service.engine._on_batch = lambda done: (
    batches_done.append(done),
    service.metrics.count_batch(done),
  )
  _complete(service)
  _complete(service, model="none")
  service.engine._on_batch = batches_done.append
  text = served.send(service, "GET", "/metrics").text
  values = dict(
    line.rsplit(" ", 1)
    for line in text.splitlines()
    if not line.startswith("#")
  )

  def value(name):
    return float(values[f"prompt_tuning_{name}"])

  route = f'route="{COMPLETIONS}"'
  assert value(f'requests_total{{{route},status="200"}}') == 1
  assert value(f'requests_total{{{route},status="404"}}') == 1
  assert value('answers_total{kind="generate",prompt="prompt_1"}') == 1
  assert value('tokens_total{direction="in"}') == 1 + 4
  assert value("prompts") == 2
  assert value("prompt_table_bytes") == 3 * 6 * tiny.WIDTH * 4
  assert value("model_bytes") > 0


def _safetensors(engine, array, **changes):
  metadata = prompt_files.PromptMetadata(
    **{
      "base_fingerprint": engine.model.fingerprint,
      "vocabulary_sha256": vocabulary_lib.sha256(engine.model.vocabulary),
      **changes,
    }
  )
  return prompt_files.content(array, metadata, ".safetensors")


def _zip(**files):
  buffer = io.BytesIO()
  with zipfile.ZipFile(buffer, "w") as archive:
    for name, content in files.items():
      archive.writestr(name.replace("__", "."), content)
  return buffer.getvalue()


_ONES = np.ones((2, tiny.WIDTH), np.float32)
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
  "no input": (COMPLETIONS, {"json": {**GOOD, "prompt": []}}, 400, "input"),
  "a number": (COMPLETIONS, {"json": {**GOOD, "prompt": 3}}, 400, "prompt"),
  "tokens": (COMPLETIONS, {"json": {**GOOD, "prompt": [-1]}}, 400, "tokens"),
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
  "hot": (COMPLETIONS, {"json": {**GOOD, "temperature": 3}}, 400, "temperat"),
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
  "not known": (COMPLETIONS, {"json": {**GOOD, "top_k": 1}}, 400, "top_k"),
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
  "wrong width": (PUT, {"content": served.npy(np.ones((2, 3)))}, 400, "width"),
  "long prompt": (
    PUT,
    {"content": served.npy(np.ones((7, tiny.WIDTH)))},
    400,
    "at most 6",
  ),
  "no archive": (PUT, {"content": b"PK nothing"}, 400, "zip archive"),
  "another archive": (PUT, {"content": _zip(a__txt="a")}, 400, "PEFT adapter"),
  "another adapter": (
    PUT,
    {"content": _zip(adapter_config__json='{"peft_type": "LORA"}')},
    400,
    "expected an adapter of type PROMPT_TUNING",
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


def _check_error(response, status, message):
  assert response.status_code == status, response.text
  error = response.json()["error"]
  assert set(error) == {"message", "type", "param", "code"}
  assert re.search(message, error["message"]), error
  assert "Traceback" not in response.text
  assert "/tmp" not in response.text


def test_bad_requests_are_refused(service):
  assert len(BAD) >= 30
  with served.unchanged(service):
    for name, (place, options, status, message) in BAD.items():
      method, path = place if isinstance(place, tuple) else ("POST", place)
      response = served.send(service, method, path, **options)
      try:
        _check_error(response, status, message)
      except AssertionError as error:
        raise AssertionError(f"{name}: {error}") from error
  assert _complete(service).status_code == 200


def test_prompt_of_another_base_is_refused_with_both_names(service, engine):
  content = _safetensors(engine, _ONES, base_fingerprint="another")
  with served.unchanged(service):
    response = served.send(service, *PUT, content=content)
  _check_error(response, 400, "trained with another")
  assert engine.model.fingerprint in response.json()["error"]["message"]
  content = _safetensors(engine, _ONES)
  assert served.send(service, *PUT, content=content).status_code == 201


def test_adapter_of_peft_s_is_read(service, prompts, tmp_path):
  peft_adapters.save_adapter(tmp_path / "adapter", prompts[1].array)
  files = {
    f"folder/{path.name}".replace(".", "__"): path.read_bytes()
    for path in (tmp_path / "adapter").iterdir()
  }
  assert served.send(service, *PUT, content=_zip(**files)).status_code == 201
  np.testing.assert_array_equal(
    service.store.get("bad").array, prompts[1].array
  )


def test_keys_and_rates(engine, tmp_path):
  path = tmp_path / "keys"
  path.write_text("# ours\nsecret  # Ann's\n")
  service = served.make_service(
    engine,
    tmp_path / "prompts",
    keys=gate.read_keys(path),
    requests_per_minute=2,
  )
  for headers in ({}, {"Authorization": "Bearer no"}, {"Authorization": "x"}):
    response = served.send(service, "GET", "/v1/models", headers=headers)
    _check_error(response, 401, "Expected a key")
  assert served.send(service, "GET", "/readyz").status_code == 200

  async def run():
    headers = {"Authorization": "Bearer secret"}
    async with served.client(service, headers=headers) as http:
      answers = [await http.get("/v1/models") for _ in range(3)]
      assert [x.status_code for x in answers] == [200, 200, 429]
      _check_error(answers[2], 429, "2 requests a minute")
      assert 1 <= int(answers[2].headers["retry-after"]) <= 30

  asyncio.run(run())
  path.write_text("# none\n")
  with pytest.raises(ValueError, match="Expected keys"):
    gate.read_keys(path)


def test_slow_sender_is_let_go(engine, tmp_path):
  service = served.make_service(engine, tmp_path / "prompts", read_seconds=0.05)

  async def slowly():
    yield b"{"
    await asyncio.sleep(5)

  response = served.send(service, "POST", COMPLETIONS, content=slowly())
  _check_error(response, 408, "did not arrive")


def test_full_queue_answers_429(service):
  response = _complete(service, prompt=["a"] * 65)
  _check_error(response, 400, "at most 64")

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
        _check_error(answer, 429, "waiting")
        assert int(answer.headers["retry-after"]) > 0
    return answers

  asyncio.run(run())
  assert _complete(service).status_code == 200


def test_answer_that_takes_too_long_is_given_up(engine, tmp_path):
  service = served.make_service(
    engine, tmp_path / "prompts", answer_seconds=0.0
  )
  body = {"model": served.BASE, "prompt": "a", "max_tokens": 8}
  response = served.send(service, "POST", COMPLETIONS, json=body)
  _check_error(response, 503, "No answer within")
  stream = served.send(
    service, "POST", COMPLETIONS, json={**body, "stream": True}
  )
  first = json.loads(stream.text.split("\n")[0].removeprefix("data: "))
  assert first["error"]["code"] == "timeout"


def test_command_line_says_what_is_wrong(tmp_path, capsys):
  for arguments, message in (
    (["--checkpoint=none"], "none"),
    (["--checkpoint=checkpoints/ladder_xs/lm_100", "--keys=none"], "none"),
  ):
    with pytest.raises(SystemExit):
      command.main([*arguments, f"--prompts={tmp_path}", "--jobs="])
    assert message in capsys.readouterr().err
