"""The page in a real browser, and what it is made of."""

import asyncio
import concurrent.futures
import contextlib
import dataclasses
import hashlib
import json
import pathlib
import re
import time

import browsers
import numpy as np
import pytest
import requests
import served
import uvicorn

from prompt_tuning import prompt_files
from prompt_tuning.serving import app, job_routes, page
from prompt_tuning.serving.middleware import Limits
from prompt_tuning.tuning_jobs import worker
from prompt_tuning.tuning_jobs.job_store import JobStore

KEY = "a key of this test"
EXAMPLE = "an example"
LOSS = "loss_per_nonpadding_target_token"
ENTER, CONTROL, TAB = "\ue007", "\ue009", "\ue004"  # WebDriver's names.


@contextlib.contextmanager
def _running(service, *routers):
  """Runs a server; yields its address. The engine is the caller's."""
  config = uvicorn.Config(
    app.make(service, *routers),
    port=0,
    lifespan="off",
    log_level="warning",
    timeout_graceful_shutdown=5,
  )
  with served.running(uvicorn.Server(config)) as address:
    yield address
    service.is_stopping = True


@pytest.fixture(scope="module")
def service(engine, prompts, model, tmp_path_factory):
  service = served.make_service(engine, tmp_path_factory.mktemp("prompts"))
  metadata = prompt_files.PromptMetadata(
    model.fingerprint,
    prompt_files.UNKNOWN,
    task="a_task",
    step=300,
    metric="accuracy",
    score=87.5,
  )
  for prompt in prompts[:3]:
    content = prompt_files.content(prompt.array, metadata, ".safetensors")
    service.store.put(prompt.name, content)
  return service


@pytest.fixture(scope="module")
def jobs(tmp_path_factory):
  return JobStore(tmp_path_factory.mktemp("jobs"))


@pytest.fixture(scope="module")
def address(service, jobs):
  """A server whose jobs are worked on here, in a thread."""
  model, folder = service.engine.model, service.store.folder
  with concurrent.futures.ThreadPoolExecutor(1) as workers:

    def wake():
      workers.submit(worker.work, jobs, model, folder, lambda: False)

    example = page.Example("prompt_4", EXAMPLE)
    with _running(
      service,
      page.router(service, [example], tunes=True),
      job_routes.router(service, jobs, wake),
    ) as address:
      yield address


@pytest.fixture(scope="module")
def downloads(tmp_path_factory):
  return tmp_path_factory.mktemp("downloads")


@pytest.fixture(scope="module")
def browser(downloads):
  with browsers.chromium(str(downloads)) as browser:
    yield browser


def _wait(browser, find, seconds=20):
  """Returns what a function of the browser finds, once it finds it."""
  from selenium.webdriver.support.wait import WebDriverWait

  return WebDriverWait(browser, seconds, poll_frequency=0.05).until(find)


def _css(browser, selector):
  return browser.find_elements("css selector", selector)


def _text_of(browser, selector, part, seconds=20):
  """Waits until an element has a text."""
  _wait(browser, lambda x: part in _css(x, selector)[0].text, seconds)


def _open(browser, address):
  browser.get(address)
  _text_of(browser, "#server", "tiny, with")


def _messages(browser):
  """Returns what the browser's console says was wrong."""
  return [entry["message"] for entry in browser.get_log("browser")]


def test_the_page_is_whole_and_of_this_server_alone(address):
  static = pathlib.Path(page.__file__).parent / "static"
  texts = {path.name: path.read_text() for path in static.iterdir()}
  for name, text in texts.items():
    # The namespace of SVG is a name: nothing is asked for there.
    text = text.replace("http://www.w3.org/2000/svg", "")
    assert not re.findall(r"https?:|\burl\(|@import|\bimport\(", text), name
    named = re.findall(r'"/static/([^"]+)"|from "\./([^"]+)"', text)
    assert {one or other for one, other in named} <= texts.keys()
    answer = requests.get(f"{address}/static/{name}")
    assert answer.content.decode() == texts[name]
    assert answer.headers["Content-Security-Policy"].startswith(
      "default-src 'none'"
    )
  assert requests.get(address).text == texts["index.html"]
  assert requests.get(f"{address}/static/..%2Fpage.py").status_code == 404
  scripts = "".join(text for name, text in texts.items() if name[-3:] == ".js")
  ids = set(re.findall(r'byId\("([^"]+)"\)', scripts))
  assert ids <= set(re.findall(r'\bid="([^"]+)"', texts["index.html"]))


def test_the_words_of_a_prompt(service, address, model):
  """Those that it is made of are the nearest."""
  table = np.asarray(model.params["token_embedder"]["embedding"], np.float32)
  tokens = [70, 80, 90]
  path = service.store.folder / "words.safetensors"
  prompt_files.save_prompt(path, 2 * table[tokens])
  service.store.refresh()
  answer = requests.get(f"{address}/v1/prompts/words/words?count=2").json()
  path.unlink()
  service.store.refresh()
  nearest = [position["words"][0] for position in answer["positions"]]
  assert [x["word"] for x in nearest] == [
    model.vocabulary.decode([token]) for token in tokens
  ]
  assert [x["cosine"] for x in nearest] == pytest.approx([1, 1, 1], abs=1e-5)
  refused = [
    requests.get(f"{address}/v1/prompts/{path}").status_code
    for path in ("tiny/words", "nobody/words", "words/words?count=0")
  ]
  assert refused == [400, 404, 400]


def test_words_of_one_prompt_at_a_time(service, monkeypatch):
  """Each analysis copies the embeddings, in float32."""
  inside, most = [], []

  def words(service, prompt, count):
    inside.append(prompt)
    time.sleep(0.05)
    most.append(len(inside))
    inside.pop()
    return {}

  monkeypatch.setattr(page, "_words", words)

  async def run():
    async with served.client(service, page.router(service)) as http:
      return await asyncio.gather(
        *(http.get(f"/v1/prompts/prompt_{x}/words") for x in (1, 2, 4))
      )

  assert [x.status_code for x in asyncio.run(run())] == [200] * 3
  assert most == [1, 1, 1]


def _ask(browser, names, text, labels=""):
  """Fills the form in and sends it by keyboard."""
  for box in _css(browser, "#choices input"):
    if box.is_selected() != (box.get_attribute("value") in names):
      box.click()
  for selector, value in (("#max-tokens", "8"), ("#labels", labels)):
    field = _css(browser, selector)[0]
    field.clear()
    field.send_keys(value)
  field = _css(browser, "#input")[0]
  field.clear()
  field.send_keys(text, CONTROL + ENTER)
  _text_of(browser, "#try-status", f"{len(names)} of {len(names)} answers")
  return {
    card.find_element("css selector", "h3").text: card.find_element(
      "css selector", "output"
    ).get_property("textContent")
    for card in _css(browser, ".answer")
  }


def test_an_input_is_answered_side_by_side(browser, address):
  _open(browser, address)
  # The server's example.
  assert _css(browser, "#input")[0].get_property("value") == EXAMPLE
  names = ["tiny", "prompt_1", "prompt_4"]
  shown = _ask(browser, names, "ab x")
  assert shown == {
    name: requests.post(
      f"{address}/v1/completions",
      json={"model": name, "prompt": "ab x", "max_tokens": 8},
    ).json()["choices"][0]["text"]
    for name in names
  }
  assert any(shown.values())
  assert _messages(browser) == []


def test_labels_are_ranked_side_by_side(browser, address):
  _open(browser, address)
  shown = _ask(browser, ["tiny", "prompt_2"], "ab x", labels="yes, no")
  for name, text in shown.items():
    body = {"model": name, "prompt": "ab x", "labels": ["yes", "no"]}
    answer = requests.post(f"{address}/v1/rank", json=body).json()
    assert text == "".join(
      f"{x['label']}{100 * x['probability']:.1f}".removesuffix(".0") + " %"
      for x in answer["data"][0]["labels"]
    )
  assert _messages(browser) == []


def test_a_refusal_is_shown(browser, address):
  _open(browser, address)
  _css(browser, "#input")[0].send_keys("a" * 100, CONTROL + ENTER)
  _text_of(browser, "#try-status", "0 of")
  assert "tokens" in _css(browser, ".answer .error")[0].text
  assert len(_messages(browser)) == len(_css(browser, ".answer"))


def test_words_and_files_of_a_prompt(browser, address, service, downloads):
  _open(browser, address)
  row = _css(browser, "#prompt-rows tr")[0]
  assert row.text.startswith("prompt_1 a_task tiny 300 87.5 1")
  words, get = row.find_elements("css selector", "button")
  words.click()
  _wait(browser, lambda x: x.switch_to.active_element.tag_name == "h3")
  prompt = service.store.get("prompt_1")
  assert len(_css(browser, "#words tbody tr")) == prompt.length
  _css(browser, "#words button")[0].send_keys(ENTER)
  assert browser.switch_to.active_element == words  # It is closed.
  get.click()
  file = downloads / "prompt_1.safetensors"
  _wait(browser, lambda _: file.exists())
  array, metadata = prompt_files.load_prompt(file)
  np.testing.assert_array_equal(array, prompt.array)
  assert metadata == prompt.metadata
  assert _messages(browser) == []


@pytest.mark.slow
def test_a_data_set_becomes_a_prompt(browser, address, jobs, tmp_path):
  """Uploaded, tuned, watched, and answered with: all on the page."""
  file = tmp_path / "data.jsonl"
  rows = [{"prompt": f"ab{x}c", "completion": y} for x, y in ("xy", "dn")] * 8
  file.write_text("\n".join(map(json.dumps, rows)))
  _open(browser, address)
  for field in ("train-file", "validation-file"):
    _css(browser, f"#{field}")[0].send_keys(str(file))
  for field, value in (("name", "mine"), ("length", "2"), ("steps", "10")):
    element = _css(browser, f"#{field}")[0]
    element.clear()
    element.send_keys(value)
  _css(browser, "#tune-form button")[0].click()
  _wait(browser, lambda x: _css(x, "#job [role=status]"), seconds=60)
  _text_of(browser, "#job [role=status]", "succeeded", seconds=60)
  (job,) = jobs.jobs()
  told = jobs.events(job.id)
  losses = [
    (x.data["step"], x.data["metrics"]["train"][LOSS])
    for x in told
    if x.kind == "train"
  ]
  scores = [(x.data["step"], x.data["score"]) for x in told if x.kind == "eval"]
  assert len(losses) == len(scores) == 10
  for figure, points in zip(
    _css(browser, "#job figure"), (losses, scores), strict=True
  ):
    (curve,) = figure.find_elements("css selector", "svg polyline")
    assert len(curve.get_attribute("points").split()) == len(points)
    assert figure.find_element("css selector", "svg").accessible_name
    figure.find_element("css selector", "summary").click()
    shown = [
      tuple(float(cell.text.replace(",", "")) for cell in row)
      for row in (
        tr.find_elements("css selector", "td")
        for tr in figure.find_elements("css selector", "tbody tr")
      )
    ]
    assert shown == [(x, pytest.approx(y, abs=1e-4)) for x, y in points]
  _wait(
    browser,
    lambda x: any(job.prompt in row.text for row in _css(x, "#prompt-rows tr")),
  )
  assert any(_ask(browser, [job.prompt], "abxc").values())
  assert _messages(browser) == []


def test_everything_is_reached_by_keyboard(browser, address):
  from selenium.webdriver.common.action_chains import ActionChains

  _open(browser, address)
  expected = [
    element
    for element in _css(browser, "a, button, input, select, textarea, summary")
    if element.is_enabled()
    and (element.is_displayed() or element.get_attribute("class") == "skip")
  ]
  seen = []
  while len(seen) < 100:
    ActionChains(browser).send_keys(TAB).perform()
    element = browser.switch_to.active_element
    if element in seen or element.tag_name == "body":
      break
    seen.append(element)
    outline = element.value_of_css_property("outline-style")
    assert outline == "solid", element.get_attribute("outerHTML")
  assert seen[0].get_attribute("class") == "skip"
  assert [x for x in expected if x not in seen] == []


@pytest.mark.parametrize(("scheme", "width"), [("light", 320), ("dark", 1200)])
def test_what_axe_finds(browser, address, scheme, width):
  """Names, roles, contrast: what a program can tell of accessibility."""
  axe = pytest.importorskip("axe_core_python.base").AXE_FILE_PATH
  browser.execute_cdp_cmd(
    "Emulation.setEmulatedMedia",
    {"features": [{"name": "prefers-color-scheme", "value": scheme}]},
  )
  size = {"width": width, "height": 900, "deviceScaleFactor": 1}
  browser.execute_cdp_cmd(
    "Emulation.setDeviceMetricsOverride", {**size, "mobile": False}
  )
  _open(browser, address)
  _ask(browser, ["tiny", "prompt_1"], "ab x", labels="yes, no")
  _css(browser, "#prompt-rows button")[0].click()
  _wait(browser, lambda x: _css(x, "#words tbody tr"))
  background = _css(browser, "body")[0].value_of_css_property(
    "background-color"
  )
  is_dark = max(map(int, re.findall(r"\d+", background)[:3])) < 100
  assert is_dark == (scheme == "dark")
  browser.execute_script(pathlib.Path(axe).read_text(encoding="utf-8"))
  found = browser.execute_async_script(
    "axe.run().then(arguments[arguments.length - 1])"
  )
  assert len(found["passes"]) > 20
  assert [
    (rule["id"], [node["html"] for node in rule["nodes"]])
    for rule in found["violations"]
  ] == []
  document = _css(browser, "html")[0]
  assert document.get_property("scrollWidth") <= width


def test_a_key_is_asked_for(browser, service):
  limits = Limits(keys=frozenset([hashlib.sha256(KEY.encode()).hexdigest()]))
  closed = dataclasses.replace(service, limits=limits, is_stopping=False)
  with _running(closed, page.router(closed)) as address:
    browser.get(address)
    for key, reason in (
      ("wrong", "asks for a key"),
      (KEY, "does not accept this key"),
    ):
      _wait(browser, lambda x: _css(x, "dialog[open]"))
      _text_of(browser, "#key-reason", reason)
      assert browser.switch_to.active_element.get_attribute("id") == "key"
      browser.switch_to.active_element.send_keys(key, ENTER)
    _text_of(browser, "#server", "tiny, with")
    browser.refresh()
    _text_of(browser, "#server", "tiny, with")
    kept = browser.execute_script(
      "return [localStorage.length, document.cookie]"
    )
    assert kept == [0, ""]
    _css(browser, "#prompt-rows button")[0].click()
    _wait(browser, lambda x: _css(x, "#words tbody tr"))
