"""Kills of a server and its worker."""

import contextlib
import os
import pathlib
import signal
import threading
import time
from typing import Any

import httpx

import prompt_tuning as pt
from prompt_tuning import prompt_files
from traffic import mixed, servers
from traffic.servers import Server

_STEPS = 60


def kills(checkpoint: str, task: str, folder: pathlib.Path) -> dict[str, Any]:
  """Kills the worker in a job, and then the server under load.

  The same job runs undisturbed first. While the server is under load, prompts
  are put; a file and a job are accepted shortly before it is killed.
  """
  texts = mixed.texts(pt.load(checkpoint), task, 100)
  server = Server(checkpoint, folder)

  def prompt_of(job: str) -> bytes:
    servers.wait_until(lambda: server.job(job)["finished_at"] is not None)
    name = server.job(job)["fine_tuned_model"]
    path = folder / "prompts" / f"{name}.safetensors"
    return prompt_files.load_prompt(path)[0].tobytes()

  accepted: list[str] = []

  def put_until_gone() -> None:
    with contextlib.suppress(httpx.HTTPError):
      while True:
        url = f"/v1/prompts/put_{len(accepted)}"
        if server.http.put(url, content=contents[0]).status_code == 201:
          accepted.append(url.rpartition("/")[2])

  try:
    server.start()
    contents = server.put_prompts()
    file = server.upload(texts)
    undisturbed = prompt_of(server.start_job(file, _STEPS))
    killed = server.start_job(file, _STEPS)
    servers.wait_until(lambda: bool(server.events(killed, "checkpoint")))
    os.kill(server.worker, signal.SIGKILL)
    servers.wait_until(lambda: server.attempts(killed) == 2)
    threads = [
      threading.Thread(target=servers.send, args=(server, texts, 20.0, 5.0)),
      threading.Thread(target=put_until_gone),
    ]
    for thread in threads:
      thread.start()
    time.sleep(2)
    late_file = server.upload(texts)
    late_job = server.start_job(late_file, 2)
    server.stop(signal.SIGKILL)
    for thread in threads:
      thread.join()
    server.start()
    models = server.http.get("/v1/models").json()["data"]
    names = {model["id"] for model in models}
    files = server.http.get("/v1/files").json()["data"]
    same = prompt_of(killed) == undisturbed
    prompt_of(late_job)  # It succeeds as well.
    return {
      "same_prompt": same,
      "attempts": server.attempts(killed),
      "accepted": len(contents) + len(accepted) + 1,
      "kept": sum(f"prompt_{i}" in names for i in range(len(contents)))
      + sum(name in names for name in accepted)
      + any(x["id"] == late_file for x in files),
      "job_accepted_before": server.job(late_job)["status"],
    }
  finally:
    server.stop()


def rows(record: dict[str, Any]) -> list[tuple[str, str, str]]:
  """See `serving.rows`."""
  same = "identical" if record["same_prompt"] else "another"
  return [
    ("times that the job was begun", "> 1", str(record["attempts"])),
    ("its prompt, to that of an undisturbed job", "identical", same),
    (
      "prompts and files accepted before the server's end, and kept",
      str(record["accepted"]),
      str(record["kept"]),
    ),
    (
      "a job accepted just before",
      "succeeded",
      record["job_accepted_before"],
    ),
  ]
