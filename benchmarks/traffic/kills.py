"""Kills of a server and its worker."""

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


def _put_until_gone(
  server: Server, content: bytes, accepted: list[str]
) -> None:
  """Puts prompts one after another until the server is gone."""
  while True:
    name = f"put_{len(accepted)}"
    try:
      answer = httpx.put(f"{server.url}/v1/prompts/{name}", content=content)
    except httpx.HTTPError:
      return
    if answer.status_code == 201:
      accepted.append(name)


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

  try:
    server.start()
    contents = server.put_prompts()
    file = server.upload(texts)
    undisturbed = prompt_of(server.start_job(file, _STEPS))
    killed = server.start_job(file, _STEPS)
    servers.wait_until(lambda: bool(server.events(killed, "checkpoint")))
    os.kill(server.worker, signal.SIGKILL)
    servers.wait_until(lambda: server.attempts(killed) == 2)
    accepted: list[str] = []
    threads = [
      threading.Thread(target=servers.send, args=(server, texts, 20.0, 5.0)),
      threading.Thread(
        target=_put_until_gone, args=(server, contents[0], accepted)
      ),
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
    models = httpx.get(f"{server.url}/v1/models").json()["data"]
    names = {model["id"] for model in models}
    files = httpx.get(f"{server.url}/v1/files").json()["data"]
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
  """See `report.rows`."""
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
