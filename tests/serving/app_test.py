"""Tests of the HTTP interface, as its clients see it."""

import asyncio
import functools
import json
import os
import pathlib
import re
import shutil
import types

import numpy as np
import pytest
import served
import tiny

from prompt_tuning.inference.requests import Token
from prompt_tuning.interop import peft_adapters
from prompt_tuning.serving import app, metrics
from prompt_tuning.serving.detokenizing import Answer
from prompt_tuning.tuning_jobs import jobs


def test_completion_is_the_model_s_answer(service, prompts):
  texts = ["abc", "abxc"]
  answer = served.complete(service, prompt=texts).json()
  expected = service.engine.model.generate(texts, prompts[0].array, 5)
  assert [choice["text"] for choice in answer["choices"]] == expected
  assert answer["object"] == "text_completion"
  assert answer["usage"]["prompt_tokens"] == 4 + 5
  tokens = [list(service.engine.model.encode(text)) for text in texts]
  same = served.complete(service, prompt=tokens).json()
  assert same["choices"] == answer["choices"]
  base = served.complete(service, model=served.BASE).json()
  (expected,) = service.engine.model.generate(["abc"], None, 5)
  assert base["choices"][0]["text"] == expected


def test_name_of_the_model_may_have_a_slash(service, monkeypatch):
  monkeypatch.setattr(service, "base", "a/b")
  for path in ("a/b", "a%2Fb"):
    response = served.send(service, "GET", f"/v1/models/{path}")
    assert response.json()["id"] == "a/b"


def test_null_is_what_is_not_given_and_too_many_tokens_are_all(service):
  """Null (OpenAI's clients) and 256 (LangChain) allow the longest answer."""
  names = ("max_tokens", "temperature", "n", "stream", "logprobs", "suffix")
  # The longest answer here is shorter than OpenAI's default.
  bodies = dict.fromkeys(names), {"max_tokens": 8}, {"max_tokens": 256}
  null, whole, more = (served.complete(service, **x).json() for x in bodies)
  assert null["choices"] == whole["choices"] == more["choices"]


def test_models_have_pages_and_their_own_times(service, client):
  path = service.store.folder / "prompt_2.safetensors"
  os.utime(path, (7, 7))
  service.store.refresh()
  names = [served.BASE, "prompt_1", "prompt_2"]
  found, query = [], "limit=2"
  while query:
    page = served.send(service, "GET", f"/v1/models?{query}").json()
    found += page["data"]
    query = page["has_more"] and f"limit=2&after={page['last_id']}"
  assert [model["id"] for model in found] == names
  assert [model.id for model in client.models.list()] == names
  assert found[2]["created"] == 7 < found[1]["created"]
  assert served.send(service, "GET", "/v1/models/prompt_2").json() == found[2]
  named = served.send(service, "GET", "/v1/models?search=Prompt_2").json()
  assert named["data"] == found[2:]
  assert not named["has_more"]


def test_samples_differ_and_a_seed_repeats_them(service):
  body = {"n": 4, "temperature": 1.5, "seed": 7}
  first = served.complete(service, **body).json()["choices"]
  assert len({choice["text"] for choice in first}) > 1
  assert served.complete(service, **body).json()["choices"] == first


def test_as_many_inputs_as_there_is_room_for_are_answered(service):
  room = service.engine.settings.room
  answer = served.complete(service, prompt=["a"] * (room // 2), n=2)
  assert len(answer.json()["choices"]) == room


def test_openai_s_client_streams_every_token(client):
  """A stream has all tokens, even if a possible stop delays their text."""
  ask = functools.partial(
    client.completions.create,
    **{"model": "prompt_1", "prompt": "hello", "max_tokens": 8, "logprobs": 2},
  )
  text, counts = ask().choices[0].text, []
  for stop in ("!" * 5, text[1]):  # The stop never occurs, or occurs midway.
    whole = ask(stop=stop)
    usage = {"include_usage": True}
    *chunks, last = ask(stop=stop, stream=True, stream_options=usage)
    assert last.usage == whole.usage
    (choice,) = whole.choices
    parts = [chunk.choices[0] for chunk in chunks]
    assert "".join(part.text for part in parts) == choice.text
    assert parts[-1].finish_reason == choice.finish_reason
    told = [part.logprobs for part in parts if part.logprobs]
    # Two compiled programs may differ in the last bit.
    near = functools.partial(pytest.approx, abs=1e-5)
    for name, values in choice.logprobs:
      streamed = [x for part in told for x in getattr(part, name)]
      if name == "token_logprobs":
        values = near(values)
      elif name == "top_logprobs":
        values = [near(top) for top in values]
      assert streamed == values
    tops = choice.logprobs.top_logprobs
    assert all(len(top) <= 2 for top in tops)
    # Decoding is greedy, so it takes the likeliest token.
    likeliest = [max(top, key=top.get) for top in tops]
    assert likeliest == choice.logprobs.tokens
    assert len(choice.logprobs.tokens) == whole.usage.completion_tokens
    counts.append(len(choice.logprobs.tokens))
  assert counts[1] < counts[0]


@pytest.fixture
def tickets(service, monkeypatch):
  """The tickets of the last requests that the engine got."""
  found, submit = [], service.engine.submit

  def noted(requests):
    found[:] = submit(requests)
    return found

  monkeypatch.setattr(service.engine, "submit", noted)
  return found


def test_stop_ends_the_decoding_of_a_whole_answer(service, tickets):
  """A stop cancels one answer's decoding and leaves the other unchanged."""
  body = {"prompt": ["hello", "abc"], "max_tokens": 8, "logprobs": 0}
  whole, other = served.complete(service, **body).json()["choices"]
  stop = whole["text"][0]
  cut, same = served.complete(service, **body, stop=stop).json()["choices"]
  assert (cut["text"], cut["finish_reason"]) == ("", "stop")
  assert same == other
  made = cut["logprobs"]["tokens"]
  assert made == whole["logprobs"]["tokens"][: len(made)]
  assert made[-1] == stop
  # The engine checks for cancelled requests after every third token.
  assert [len(ticket.result().tokens) for ticket in tickets] == [6, 8]


def test_labels_have_probabilities(service, prompts):
  labels = ["yes", "no"]
  body = {"model": "prompt_2", "prompt": ["abc", "x"], "labels": labels}
  answer = served.send(service, "POST", "/v1/rank", json=body).json()
  expected = service.engine.model.rank(["abc", "x"], labels, prompts[1].array)
  for got, scores in zip(answer["data"], expected, strict=True):
    found = {x["label"]: x["log_likelihood"] for x in got["labels"]}
    assert found == pytest.approx(scores, abs=1e-4)
    assert list(found) == list(scores)
    assert sum(x["probability"] for x in got["labels"]) == pytest.approx(1)


def test_answer_ends_before_a_stop():
  letters = types.SimpleNamespace(decode=lambda ids: "".join(map(chr, ids)))
  tokens = [Token(ord(x), 0.0) for x in "one two three"]
  stops = ["tw", "three"]

  def whole(tokens, stops=stops):
    answer = Answer(letters, stops)
    return answer.add_all(tokens), len(answer.tokens), answer.was_cut

  assert whole(tokens) == ("one ", 6, True)
  assert whole(tokens[:5]) == ("one t", 5, False)
  assert whole(tokens[4:]) == ("", 2, True)
  # The first complete stop ends the answer, even if another began earlier.
  assert whole(tokens, ["ne two", "e"]) == ("on", 3, True)
  stream = Answer(letters, stops)
  assert "".join(stream.add(token) for token in tokens) == "one "
  assert stream.was_cut
  stream = Answer(letters, stops)
  sent = [stream.add(token) for token in tokens[:5]]
  assert "".join(sent) == "o"  # A stop may begin in "ne t".
  assert "".join(sent) + stream.rest() == "one t"


def test_the_likeliest_of_tokens_with_one_text_is_shown():
  letters = types.SimpleNamespace(
    decode=lambda ids: "".join(map(chr, ids)).lower()
  )
  top = (ord("a"), -1.0), (ord("b"), -2.0), (ord("A"), -3.0)
  answer = Answer(letters, [], [Token(ord("a"), -1.0, top)])
  (shown,) = answer.log_probs(3)["top_logprobs"]
  assert list(shown.items()) == [("a", -1.0), ("b", -2.0)]


def _post(service, body, send, leaves=False):
  """Posts a completion to the ASGI application; the client leaves or waits."""
  content = json.dumps(body).encode()
  parts = iter([{"type": "http.request", "body": content}])

  async def receive():
    if (part := next(parts, None)) is None and not leaves:
      await asyncio.sleep(60)
    return part or {"type": "http.disconnect"}

  scope = {
    "type": "http",
    "method": "POST",
    "path": served.COMPLETIONS,
    "query_string": b"",
    "headers": [(b"content-type", b"application/json")],
  }
  asyncio.run(app.make(service)(scope, receive, send))


def test_stream_waits_for_a_slow_reader(engine, tmp_path, monkeypatch):
  """A stream waits for a slow reader; line separators split no event."""
  words = engine.model.vocabulary
  monkeypatch.setattr(words, "decode", lambda ids: "\u2028\x85" * len(ids))
  service = served.make_service(engine, tmp_path / "prompts", answer_seconds=2)
  body = {"model": served.BASE, "prompt": "hello", "stream": True, "n": 4}
  pauses, sent = [2.5], []

  async def send(message):
    if message.get("body") and pauses:
      await asyncio.sleep(pauses.pop())
    sent.append(message.get("body", b""))

  body |= {"max_tokens": 8, "temperature": 1}
  _post(service, body, send)
  text = b"".join(sent).decode()
  assert text.count('"finish_reason": "') == 4
  assert text.endswith("data: [DONE]\n\n")
  assert {line[:6] for line in text.splitlines()} == {"data: ", ""}


def test_stream_that_nobody_waits_for_is_cancelled(service, tickets):
  """A client that leaves before the first event cancels its request."""

  async def send(message):
    await asyncio.sleep(60)  # The client reads nothing.

  body = {"model": served.BASE, "prompt": "hello", "stream": True}
  # While this lock is held, the engine takes no batch.
  with service.engine._changed:
    _post(service, body, send, leaves=True)
    assert [ticket.cancelled() for ticket in tickets] == [True]


def test_prompt_in_every_format(service, prompts, tmp_path):
  array = prompts[2].array
  path = "/v1/prompts/new"
  put = served.send(service, "PUT", path, content=served.npy(array))
  assert put.json()["prompt"] == {"length": len(array), "width": tiny.WIDTH}
  before = served.complete(service, model="new").json()["choices"]
  peft_adapters.save_adapter(tmp_path / "adapter", array)
  in_a_folder = shutil.make_archive(
    str(tmp_path / "new"), "zip", tmp_path, "adapter"
  )
  contents = [
    served.send(service, "GET", f"{path}?format={form}").content
    for form in ("safetensors", "npy", "peft")
  ]
  contents.append(pathlib.Path(in_a_folder).read_bytes())
  for content in contents:
    assert served.send(service, "DELETE", path).json()["deleted"]
    assert served.complete(service, model="new").status_code == 404
    put = served.send(service, "PUT", path, content=content)
    assert put.status_code == 201, put.text
    assert served.complete(service, model="new").json()["choices"] == before
    np.testing.assert_array_equal(service.store.get("new").array, array)


def test_metrics_say_what_happened(service, store, monkeypatch):
  monkeypatch.setattr(service.engine, "_on_batch", service.metrics.count_batch)
  monkeypatch.setattr(metrics, "_MOST_NAMED", 1)

  def read():
    text = served.send(service, "GET", "/metrics").text
    lines = [x.rsplit(" ", 1) for x in text.splitlines() if x[0] != "#"]
    return {
      name.removeprefix("prompt_tuning_"): float(value) for name, value in lines
    }

  served.complete(service)
  served.complete(service, model="none")
  served.complete(service, model="prompt_2")
  file = store.add_file("data.jsonl", b'{"prompt": "a", "completion": "b"}')
  store.add_job(file.id, None, "mine", jobs.Settings())
  values, table = read(), 3 * 6 * tiny.WIDTH * 4
  route = f'route="{served.COMPLETIONS}"'
  answers = 'answers_total{kind="generate",prompt="prompt_1"}'
  others = answers.replace("prompt_1", "(others)")
  expected = {
    f'requests_total{{{route},status="200"}}': 2,
    f'requests_total{{{route},status="404"}}': 1,
    answers: 1,
    others: 1,
    'tokens_total{direction="in"}': (1 + 4) + (2 + 4),
    "prompts": 2,
    "prompt_swaps_total": service.engine.table.swaps,
    'jobs{status="queued"}': 1,
    'jobs{status="running"}': 0,
    'queue_seconds_count{kind="generate"}': 2,
    "first_token_seconds_count": 2,
    "prompt_table_bytes": table,
  }
  assert values.items() >= expected.items()
  spent = values['batch_seconds_sum{kind="generate"}']
  assert 0 < values["first_token_seconds_sum"] < spent + 1
  assert values["array_bytes"] >= values["model_bytes"] + table > table
  # Another server may remove a prompt.
  (service.store.folder / "prompt_1.safetensors").unlink()
  service.store.refresh()
  assert answers not in read()


def test_the_page_is_whole_and_of_this_server_alone(service):
  static = pathlib.Path(app.__file__).parent / "static"
  texts = {path.name: path.read_text() for path in static.iterdir()}
  for name, text in texts.items():
    # The SVG namespace is only a name; nothing is loaded from it.
    text = text.replace("http://www.w3.org/2000/svg", "")
    assert not re.findall(r"https?:|\burl\(|@import|\bimport\(", text), name
    named = re.findall(r'"/static/([^"]+)"|from "\./([^"]+)"', text)
    assert {one or other for one, other in named} <= texts.keys()
    answer = served.send(service, "GET", f"/static/{name}")
    assert answer.content.decode() == texts[name]
    policy = answer.headers["Content-Security-Policy"]
    assert policy.startswith("default-src 'none'")
  assert served.send(service, "GET", "/").text == texts["index.html"]
  outside = served.send(service, "GET", "/static/..%2Fapp.py")
  assert outside.status_code == 404
  scripts = "".join(text for name, text in texts.items() if name[-3:] == ".js")
  ids = set(re.findall(r'byId\("([^"]+)"\)', scripts))
  assert ids <= set(re.findall(r'\bid="([^"]+)"', texts["index.html"]))


def test_the_words_of_a_prompt(service, model):
  """A prompt made of word embeddings has those words as its nearest."""
  table = np.asarray(model.params["token_embedder"]["embedding"], np.float32)
  tokens = [70, 80, 90]
  service.store.put("words", served.npy(2 * table[tokens]))
  path = "/v1/prompts/words/words?count=2"
  answer = served.send(service, "GET", path).json()
  nearest = [position["words"][0] for position in answer["positions"]]
  assert [x["word"] for x in nearest] == [
    model.vocabulary.decode([token]) for token in tokens
  ]
  assert [x["cosine"] for x in nearest] == pytest.approx([1, 1, 1], abs=1e-5)
