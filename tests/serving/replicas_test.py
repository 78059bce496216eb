"""Several servers of one folder, as docs/serving.md has them."""

import contextlib
import json
import pathlib
import signal
import socket
import subprocess
import sys
import time

import pytest
import requests

ROOT = pathlib.Path(__file__).parents[2]
CHECKPOINT = ROOT / "checkpoints" / "ladder_xs" / "lm_100"
JOBS = "v1/fine_tuning/jobs"

pytestmark = pytest.mark.slow


@contextlib.contextmanager
def _server(folder):
  """Runs a server of a folder; yields its address. SIGTERM must end it well."""
  with socket.create_server(("127.0.0.1", 0)) as free:
    port = free.getsockname()[1]
  command = [
    *(sys.executable, "-m", "prompt_tuning", "serve", f"--port={port}"),
    *(f"--checkpoint={CHECKPOINT}", f"--prompts={folder}/prompts"),
    *(f"--jobs={folder}/jobs", "--name=base", "--rows=1", "--lengths=32"),
    *("--max_tokens=4", "--labels=16"),
  ]
  process = subprocess.Popen(command, cwd=ROOT)
  try:
    yield f"http://127.0.0.1:{port}"
    process.send_signal(signal.SIGTERM)
    # Uvicorn ends, when all is done, by the signal that it got.
    assert process.wait(60) in (0, -signal.SIGTERM)
  finally:
    process.kill()
    process.wait()


def _until(look, seconds=180):
  """Returns what comes of looking, once something does."""
  deadline = time.monotonic() + seconds
  while time.monotonic() < deadline:
    with contextlib.suppress(requests.ConnectionError):
      if found := look():
        return found
    time.sleep(0.2)
  pytest.fail("It took too long.")


def _models(address):
  models = requests.get(f"{address}/v1/models").json()["data"]
  return {model["id"] for model in models}


def _answer(address, model):
  body = {"model": model, "prompt": "Kate has a drum .", "max_tokens": 4}
  return requests.post(f"{address}/v1/completions", json=body).json()


def test_two_servers_of_one_folder(tmp_path):
  """A prompt, and a job, of either is known to both; one worker tunes."""
  with _server(tmp_path) as first, _server(tmp_path) as second:
    for address in (first, second):
      _until(lambda address=address: requests.get(f"{address}/readyz").ok)
    rows = [{"prompt": f"Kate is {x} .", "completion": x} for x in ("in", "on")]
    content = "\n".join(map(json.dumps, rows * 4))
    file = requests.post(
      f"{first}/v1/files",
      data={"purpose": "fine-tune"},
      files={"file": ("data.jsonl", content)},
    ).json()
    job = requests.post(
      f"{second}/{JOBS}",
      json={
        "model": "base",
        "training_file": file["id"],
        "suffix": "mine",
        "hyperparameters": {"length": 2, "steps": 2, "init": "sampled_vocab"},
      },
    ).json()

    def over():
      shown = requests.get(f"{first}/{JOBS}/{job['id']}").json()
      return shown if shown["status"] in ("succeeded", "failed") else None

    ended = _until(over)
    assert ended["status"] == "succeeded", ended["error"]
    name = ended["fine_tuned_model"]
    assert name in _models(first) & _models(second)
    texts = [_answer(x, name)["choices"] for x in (first, second)]
    assert texts[0] == texts[1]

    prompt = requests.get(f"{first}/v1/prompts/{name}?format=npy").content
    assert requests.put(f"{first}/v1/prompts/copy", data=prompt).ok
    assert _answer(second, "copy")["choices"] == texts[0]
    requests.delete(f"{second}/v1/prompts/copy")
    _until(lambda: "copy" not in _models(first), seconds=10)
    events = requests.get(f"{second}/{JOBS}/{job['id']}/events").json()["data"]
    begun = [x for x in events if x["data"].get("status") == "running"]
    assert len(begun) == 1
