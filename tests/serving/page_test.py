"""Tests of the page in a real browser."""

import contextlib
import csv
import dataclasses
import hashlib
import json
import pathlib
import re
import sqlite3
import threading
import types

import browsed
from browsed import CONTROL, ENTER, TAB
import numpy as np
import pytest
import requests
import served
import tiny
import uvicorn

from prompt_tuning import prompt_files
from prompt_tuning.serving import app
from prompt_tuning.serving.tenants import Limits
from prompt_tuning.tuning_jobs import jobs, worker
from prompt_tuning.tuning_jobs.job_store import JobStore

KEY = "a key of this test"
EXAMPLE = "an example"
LOSS = "loss_per_nonpadding_target_token"
# One script reads all cells, because the page replaces them.
CELLS = """
  const cells = document.querySelectorAll("#table td");
  return Array.from(cells, (cell) => cell.textContent);
"""
# A busy server answers the next request with 429.
BUSY = """
  const { fetch } = window;
  window.fetch = async () => {
    window.fetch = fetch;
    const headers = { "Retry-After": "0.1" };
    return new Response("{}", { status: 429, headers });
  };
"""
# Older versions of Safari lack this iterator.
NO_ITERATION = "delete ReadableStream.prototype[Symbol.asyncIterator]"


@contextlib.contextmanager
def _running(service):
  """Runs a server and yields its address; the caller closes the engine."""
  application = app.make(service)
  config = uvicorn.Config(
    application, port=0, lifespan="off", timeout_graceful_shutdown=5
  )
  with served.running(uvicorn.Server(config)) as address:
    yield address
    service.is_stopping = True


@pytest.fixture(scope="module")
def service(engine, prompts, model, tmp_path_factory):
  """A server with three prompts, whose jobs run in a thread."""
  folder = tmp_path_factory.mktemp("served")
  service = served.make_service(engine, folder / "prompts")
  metadata = prompt_files.PromptMetadata(
    *(model.fingerprint, prompt_files.UNKNOWN),
    **{"task": "a_task", "step": 300, "metric": "accuracy", "score": 87.5},
  )
  for prompt in prompts[:3]:
    content = prompt_files.content(prompt.array, metadata, ".safetensors")
    service.store.put(prompt.name, content)
  service.examples = [{"model": "prompt_4", "input": EXAMPLE}]
  service.jobs = JobStore(folder / "jobs", served.BASE)
  work = service.jobs, model.tune, service.store.folder, lambda: False
  service.supervisor = types.SimpleNamespace(
    wake=lambda: threading.Thread(target=worker.work, args=work).start()
  )
  return service


@pytest.fixture(scope="module")
def address(service):
  with _running(service) as address:
    yield address


@pytest.fixture(scope="module")
def shown(tmp_path_factory):
  with browsed.opened(tmp_path_factory.mktemp("downloads")) as page:
    yield page


def test_answers_are_shown_side_by_side(shown, address):
  """The page shows texts, ranked labels, and refusals of several models."""
  shown.open(address)
  shown.browser.execute_script(NO_ITERATION)
  assert shown.one("#input").get_property("value") == EXAMPLE

  def post(path, name, **fields):
    body = {"model": name, "prompt": "ab x", **fields}
    return requests.post(f"{address}{path}", json=body).json()

  names = ["tiny", "prompt_1", "prompt_4"]
  texts = shown.ask(names, "ab x")
  assert any(texts.values())
  for name, text in texts.items():
    answer = post("/v1/completions", name, max_tokens=8)
    assert text == answer["choices"][0]["text"]
  ranked = shown.ask(names[:2], "ab x", labels="yes, no")
  for name, text in ranked.items():
    [row] = post("/v1/rank", name, labels=["yes", "no"])["data"]
    assert text == "".join(
      f"{x['label']}{100 * x['probability']:.1f}".removesuffix(".0") + " %"
      for x in row["labels"]
    )
  assert (len(texts), len(ranked)) == (3, 2)
  assert shown.errors() == []
  shown.fill(input="a" * 100 + CONTROL + ENTER)
  shown.wait_for_text("#try-status", "0 of")
  assert "tokens" in shown.one(".answer .error").text
  assert len(shown.errors()) == len(shown.all(".answer"))


def test_words_and_files_of_a_prompt(shown, address, service):
  shown.open(address)
  row = shown.one("#prompt-rows tr")
  steps = 300 - tiny.BASE_STEP  # The page counts steps of tuning.
  assert row.text.startswith(f"prompt_1 a_task {steps} 87.5 1")
  words, get, _ = row.find_elements("css selector", "button")
  words.click()
  shown.wait(lambda: shown.focused().tag_name == "h3")
  prompt = service.store.get("prompt_1")
  assert len(shown.all("#words tbody tr")) == prompt.length
  shown.one("#words button").send_keys(ENTER)
  assert shown.focused() == words  # Closing the words returns the focus.
  get.click()
  file = shown.downloads / "prompt_1.safetensors"
  shown.wait(file.exists)
  array, metadata = prompt_files.load_prompt(file)
  np.testing.assert_array_equal(array, prompt.array)
  assert metadata == prompt.metadata
  assert shown.errors() == []


def test_prompts_are_uploaded_filtered_and_deleted(
  shown, address, service, tmp_path
):
  file = tmp_path / "own.npy"
  file.write_bytes(served.npy(service.store.get("prompt_2").array))
  shown.open(address)
  shown.one("#prompt-file").send_keys(str(file))
  shown.one("#prompt-form button").click()
  shown.wait_for_text("#prompts-status", "own is stored")
  assert len(service.store.get("own").array) == 2

  def names(selector):
    return [x.text.split()[0] for x in shown.all(selector) if x.text]

  shown.fill(prompt_filter="OW", filter="prompt_4")
  assert names("#prompt-rows tr") == ["own"]
  assert names("#choices label") == ["prompt_4"]
  shown.one("#none").click()
  assert shown.all("#choices input:checked") == []
  *_, delete = shown.all("#prompt-rows tr:not([hidden]) button")
  delete.click()
  shown.browser.switch_to.alert.accept()
  shown.wait_for_text("#prompts-status", "own is deleted")
  assert "own" not in service.store.all()
  assert shown.errors() == []


def test_a_table_of_inputs_is_answered(shown, address, tmp_path):
  texts = ['ab "x", c', "two\nlines", "abc"]
  file = tmp_path / "in.csv"
  rows = ("id", "text"), *enumerate(texts)
  with file.open("w", newline="", encoding="utf-8-sig") as out:
    for end, row in zip(("\r\n", "\r", "\n", "\r\n"), rows, strict=True):
      csv.writer(out, lineterminator=end).writerow(row)
  shown.open(address)
  shown.one("#none").click()
  shown.one('#choices [value="prompt_1"]').click()
  shown.fill(max_tokens="8")
  shown.one("#try details summary").click()
  shown.one("#table-file").send_keys(str(file))
  shown.wait_for_text("#table-status", "3 inputs")
  shown.one("#column").send_keys("text")
  answers = {"labels": ["yes", "no"]}, {"max_tokens": 8}
  for labels, body in zip(("yes, no", ""), answers, strict=True):
    path = "/v1/rank" if labels else served.COMPLETIONS
    body |= {"model": "prompt_1", "prompt": texts}
    found = requests.post(f"{address}{path}", json=body).json()
    expected = (
      [x["labels"][0]["label"] for x in found["data"]]
      if labels
      else [x["text"] for x in found["choices"]]
    )
    shown.fill(labels=labels)
    shown.browser.execute_script(BUSY)
    shown.one("#table-form button").click()
    rows = [list(x) for x in zip("012", texts, expected, strict=True)]

    wanted = [cell for row in rows for cell in row]
    shown.wait(lambda want=wanted: shown.browser.execute_script(CELLS) == want)
    saved = shown.downloads / "in-answers.csv"
    saved.unlink(missing_ok=True)
    shown.one("#table-save").click()
    shown.wait(saved.exists)
    with saved.open(newline="") as lines:
      assert list(csv.reader(lines)) == [["id", "text", "prompt_1"], *rows]
  assert shown.errors() == []


@pytest.mark.slow
def test_a_data_set_becomes_a_prompt(shown, address, service, tmp_path):
  """The page uploads data, tunes a prompt, charts the job, and answers."""
  file = tmp_path / "data.jsonl"
  rows = [{"prompt": f"ab{x}c", "completion": y} for x, y in ("xy", "dn")] * 8
  file.write_text("\n".join(map(json.dumps, rows)))
  shown.open(address)
  for field in ("train-file", "validation-file"):
    shown.one(f"#{field}").send_keys(str(file))
  shown.fill(name="mine", length="2", steps="10")
  shown.one("#tune-form button").click()
  shown.wait(lambda: shown.all("#job [role=status]"))
  shown.wait_for_text("#job [role=status]", "succeeded")
  (job,) = service.jobs.jobs()
  events = service.jobs.events(job.id)
  data = [x.data for x in events if x.kind == "train"]
  losses = [(x["step"], x["metrics"]["train"][LOSS]) for x in data]
  data = [x.data for x in events if x.kind == "eval"]
  scores = [(x["step"], x["score"]) for x in data]
  assert len(losses) == len(scores) == 10
  for figure, points in zip(
    shown.all("#job figure"), (losses, scores), strict=True
  ):
    (curve,) = figure.find_elements("css selector", "svg polyline")
    assert len(curve.get_attribute("points").split()) == len(points)
    assert figure.find_element("css selector", "svg").accessible_name
    figure.find_element("css selector", "summary").click()
    cells = figure.find_elements("css selector", "tbody td")
    numbers = [float(cell.text.replace(",", "")) for cell in cells]
    assert numbers == pytest.approx([x for xy in points for x in xy], abs=1e-4)
  prompts = "#prompt-rows tr"
  step = job.step - tiny.BASE_STEP
  row = f"{job.prompt} data.jsonl {step} "
  shown.wait(lambda: any(row in x.text for x in shown.all(prompts)))
  shown.all("#job button")[-1].click()
  record = shown.downloads / f"{job.id}.json"
  shown.wait(record.exists)
  read = json.loads(record.read_text())
  assert read["job"]["user_provided_suffix"] == "mine"
  assert len(read["events"]) == len(events)
  for left in (1, 0):
    shown.one("#files button").click()
    shown.wait(lambda left=left: len(shown.all("#files li")) == left)
  assert any(shown.ask([job.prompt], "abxc").values())
  assert shown.errors() == []


def test_a_job_is_followed_past_an_error(shown, service, tmp_path, monkeypatch):
  """After an error ends the stream of events, another stream continues it."""
  other = dataclasses.replace(service, jobs=JobStore(tmp_path, served.BASE))
  file = other.jobs.add_file("a.jsonl", b'{"prompt": "a", "completion": "b"}')
  job = other.jobs.add_job(file.id, None, "mine", jobs.Settings()).id
  failures, events = (
    [sqlite3.OperationalError("disk I/O error")],
    JobStore.events,
  )

  def failing(store, *arguments):
    if failures:
      raise failures.pop()
    return events(store, *arguments)

  monkeypatch.setattr(JobStore, "events", failing)
  with _running(other) as address:
    shown.open(address)
    shown.wait(lambda: shown.all("#jobs button"))
    shown.one("#jobs button").click()
    shown.wait(lambda: not failures)
    other.jobs.cancel(job)
    shown.wait_for_text("#job [role=status]", "cancelled")


def test_everything_is_reached_by_keyboard(shown, address):
  shown.open(address)
  expected = [
    element
    for element in shown.all("a, button, input, select, textarea, summary")
    if element.is_enabled()
    and (element.is_displayed() or element.get_attribute("class") == "skip")
  ]
  seen = []
  while len(seen) < 100:
    browsed.webdriver.ActionChains(shown.browser).send_keys(TAB).perform()
    element = shown.focused()
    if element in seen or element.tag_name == "body":
      break
    seen.append(element)
    outline = element.value_of_css_property("outline-style")
    assert outline == "solid", element.get_attribute("outerHTML")
  assert seen[0].get_attribute("class") == "skip"
  assert [x for x in expected if x not in seen] == []


@pytest.mark.parametrize(("scheme", "width"), [("light", 320), ("dark", 1200)])
def test_axe_finds_nothing(shown, address, scheme, width):
  """The page passes axe's accessibility checks and fits narrow screens."""
  axe = pytest.importorskip("axe_core_python.base").AXE_FILE_PATH
  browser = shown.browser
  features = [{"name": "prefers-color-scheme", "value": scheme}]
  size = {"width": width, "height": 900, "deviceScaleFactor": 1}
  for command, settings in (
    ("setEmulatedMedia", {"features": features}),
    ("setDeviceMetricsOverride", {**size, "mobile": False}),
  ):
    browser.execute_cdp_cmd(f"Emulation.{command}", settings)
  shown.open(address)
  shown.ask(["tiny", "prompt_1"], "ab x", labels="yes, no")
  shown.show_words()
  shown.one("#try details summary").click()
  color = shown.one("body").value_of_css_property("background-color")
  is_dark = max(map(int, re.findall(r"\d+", color)[:3])) < 100
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
  assert shown.one("html").get_property("scrollWidth") <= width
  for button in shown.all("#prompt-rows button"):
    assert button.rect["x"] + button.rect["width"] <= width


def test_a_key_is_asked_for(shown, service):
  limits = Limits(keys={hashlib.sha256(KEY.encode()).hexdigest(): "ann"})
  closed = dataclasses.replace(service, limits=limits)
  with _running(closed) as address:
    shown.browser.get(address)
    for key, reason in (
      ("wrong", "asks for a key"),
      (KEY, "does not accept this key"),
    ):
      shown.wait(lambda: shown.all("dialog[open]"))
      shown.wait_for_text("#key-reason", reason)
      assert shown.focused().get_attribute("id") == "key"
      shown.focused().send_keys(key, ENTER)
    for _ in range(2):
      shown.wait_for_text("#server", "tiny, with")
      shown.browser.refresh()
    kept = "return [localStorage.length, document.cookie]"
    assert shown.browser.execute_script(kept) == [0, ""]
    shown.wait_for_text("#server", "tiny, with")
    shown.show_words()
