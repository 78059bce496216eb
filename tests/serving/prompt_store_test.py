"""Tests of a folder of prompts that others write to and that may fail."""

import asyncio
from concurrent import futures
import json
import os
import threading
import time
import zipfile

import bucket
import numpy as np
import pytest
import safetensors.numpy
import served

from prompt_tuning import prompt_files
from prompt_tuning.commands import console
from prompt_tuning.commands import serve as command
from prompt_tuning.inference.requests import TunedPrompt
from prompt_tuning.interop import peft_adapters
from prompt_tuning.serving import prompt_store
from prompt_tuning.serving.errors import ApiError
from prompt_tuning.serving.prompt_store import PromptStore


def test_files_that_others_write_are_served(service, prompts, monkeypatch):
  folder, late = service.store.folder, served.npy(prompts[3].array)
  path = folder / "late.npy"
  (folder / "broken.npy").write_bytes(b"no")
  os.symlink("loop", folder / "loop")
  os.symlink("loop.npy", folder / "loop.npy")
  for content, status in ((late[:-8], 404), (late, 200), (None, 404)):
    if content is None:
      path.unlink()
    else:  # The first content is cut off; both have the same time.
      with path.open("wb") as file:
        file.write(content)
      os.utime(path, (1, 1))
    service.store.refresh()
    assert served.complete(service, model="late").status_code == status
  for name in ("broken", "loop"):
    assert served.complete(service, model=name).status_code == 404
  # Of two files with one name, one is read, and only once.
  monkeypatch.setattr(service.store, "_read", lambda *_: pytest.fail("read"))
  prompt_files.save_prompt(folder / "prompt_1.npy", prompts[3].array)
  for name in ("broken.npy", "loop.npy"):
    (folder / name).unlink()
  service.store.refresh()
  assert service.store.get("prompt_1").length == 1


def test_file_that_cannot_be_read_keeps_nobody_from_the_others(
  service, prompts, monkeypatch
):
  folder, load = service.store.folder, prompt_files.load_prompt
  for i in (1, 4, 6):
    path = folder / f"prompt_{i}.safetensors"
    prompt_files.save_prompt(path, prompts[4].array)

  def fail(path):
    if path.stem in ("prompt_1", "prompt_6"):
      raise OSError(24, "Too many open files")
    if path.stem == "prompt_2":
      raise AssertionError("It is known.")
    return load(path)

  monkeypatch.setattr(prompt_files, "load_prompt", fail)
  for _ in range(2):
    service.store.refresh()
    # The earlier prompt stays until the new file can be read.
    assert service.store.get("prompt_1").length == 1
    assert service.store.get("prompt_4").length == 6
    # Probes have no key, so they do not see the names of prompts.
    health = served.send(service, "GET", "/healthz").json()
    assert health["prompts"].startswith("2 prompts cannot be read;")
    response = served.complete(service, model="prompt_6")
    served.check_error(response, 503, "could not be found or read")
    assert response.headers["retry-after"] == "5"
  monkeypatch.undo()
  service.store.refresh()
  assert service.store.problem is None
  assert service.store.get("prompt_1").length == 6
  assert served.complete(service, model="prompt_6").status_code == 200


def test_put_that_does_not_end_holds_up_nobody(service, prompts, monkeypatch):
  may_end, save = threading.Event(), prompt_files.save_prompt
  monkeypatch.setattr(
    prompt_files, "save_prompt", lambda *x: may_end.wait(60) and save(*x)
  )
  service.store._period = 0.0
  with futures.ThreadPoolExecutor() as threads:
    put = threads.submit(service.store.put, "new", served.npy(prompts[0].array))
    assert len(service.store.all()) == 2
    assert service.store.get("prompt_1").length == 1
    may_end.set()
    put.result()
  assert service.store.get("new").length == 1


def test_folder_that_does_not_answer_holds_up_nobody(service, monkeypatch):
  """Requests share one thread's listing of the folder.

  Asyncio's own threads are busy, as they are when they parse uploads.
  """
  looks, may_end, found = [], threading.Event(), service.store._files

  def slow():
    looks.append(threading.current_thread())
    assert may_end.wait(60)
    return found()

  monkeypatch.setattr(service.store, "_files", slow)
  monkeypatch.setattr(prompt_store, "_PATIENCE", 0.05)
  monkeypatch.setattr(prompt_store, "_PAUSE", 0)

  async def run():
    async with served.client(service) as http:

      def ask(model):
        body = {"model": model, "prompt": "abc", "max_tokens": 2}
        return asyncio.create_task(http.post(served.COMPLETIONS, json=body))

      service.store._period = 1000
      busy = [asyncio.to_thread(may_end.wait, 60) for _ in range(100)]
      threads = asyncio.gather(*busy)
      wrong = [ask(f"none_{i}") for i in range(20)]
      while not looks:
        await asyncio.sleep(0.01)
      service.store._period = 0
      lists = [asyncio.create_task(http.get("/v1/models")) for _ in range(50)]
      assert (await http.get("/healthz")).status_code == 200
      for _ in range(10):
        assert (await ask("prompt_1")).status_code == 200
      assert len(looks) == 1
      may_end.set()
      assert {x.status_code for x in await asyncio.gather(*lists)} == {200}
      assert {x.status_code for x in await asyncio.gather(*wrong)} == {404}
      await threads

  asyncio.run(run())
  assert threading.main_thread() not in looks


def test_pipe_is_not_opened(service, prompts):
  """Pipes and devices are skipped, because reading them might never end."""
  os.mkfifo(service.store.folder / "pipe.npy")
  os.symlink("/dev/zero", service.store.folder / "zero.npy")
  put = ("PUT", "/v1/prompts/new", {"content": served.npy(prompts[0].array)})
  gets = [f"/v1/models/{name}" for name in ("pipe", "zero")] + ["/healthz"]
  responses = served.send_all(service, [put, *(("GET", x, {}) for x in gets)])
  assert [x.status_code for x in responses] == [201, 404, 404, 200]
  assert responses[-1].json()["status"] == "ok"


def test_a_look_at_many_files_reads_the_times_of_some(
  service, prompts, monkeypatch
):
  """New and replaced files are found at once, files changed in place later."""
  store, array = service.store, prompts[0].array
  for i in range(8):
    path = store.folder / f"many_{i}.npy"
    prompt_files.save_prompt(path, array)
  store.refresh()
  monkeypatch.setattr(prompt_store, "_STATS", 2)
  reads, read = [], store._read
  monkeypatch.setattr(store, "_read", lambda *x: reads.append(x[0]) or read(*x))
  prompt_files.save_prompt(store.folder / "many_3.npy", 2 * array)
  prompt_files.save_prompt(store.folder / "new.npy", array)
  store.refresh()
  assert [path.stem for path in reads] == ["many_3", "new"]
  for i in range(8):
    (store.folder / f"many_{i}.npy").write_bytes(served.npy(3 * array))
  counts = []
  for _ in range(6):  # Each turn checks about two of the 11 files.
    store.refresh()
    counts.append(len(reads))
  assert counts[0] < counts[-1] == 2 + 8
  found = [store.get(f"many_{i}").array[0, 0] for i in range(8)]
  assert found == [3 * array[0, 0]] * 8


def test_looks_for_wrong_names_have_pauses_between_them(service):
  service.store._period = 2.0
  start = time.monotonic()
  service.store.refresh()
  for _ in range(3):
    with pytest.raises(ApiError, match="no model"):
      asyncio.run(service.store.find("none"))
  assert time.monotonic() - start >= 3 * 0.1 * 2.0


@pytest.mark.parametrize("kind", ["gemma2", "llama"])
def test_adapters_are_of_the_server_s_model(tmp_path, kind):
  """An adapter is for the server's model, whatever folder it names."""
  for folder, content in (("own", {"model_type": kind}), ("named", {})):
    (tmp_path / folder).mkdir()
    (tmp_path / folder / "config.json").write_text(json.dumps(content))
  prompt = TunedPrompt(np.ones((2, 16), np.float32))
  archive = prompt_store.adapter_archive(prompt, str(tmp_path / "own"))
  files = dict(prompt_store._adapter_files(archive))
  config = json.loads(files[CONFIG])
  assert config["task_type"] == "CAUSAL_LM"
  weights = safetensors.numpy.load(files[peft_adapters.WEIGHTS])
  # PEFT's rows for a Gemma include the factor of its embeddings.
  assert weights["prompt_embeddings"][0, 0] == (4 if kind == "gemma2" else 1)
  config["base_model_name_or_path"] = str(tmp_path / "named")
  archive = served.zipped({**files, CONFIG: json.dumps(config)})
  array, _ = prompt_store._parse(archive, tmp_path, str(tmp_path / "own"))
  np.testing.assert_array_equal(array, prompt.array)


CONFIG = "adapter_config.json"
WHOLE = served.zipped({f"a/{CONFIG}": "{}" * 500})


@pytest.mark.parametrize(
  ("archive", "message"),
  [
    # A few hundred bytes in these formats can expand to fill the memory.
    *(
      (served.zipped({CONFIG: "{}" * 500}, kind), "stored or deflated")
      for kind in (zipfile.ZIP_BZIP2, zipfile.ZIP_LZMA)
    ),
    # JSON lists take thirty times their size in memory.
    (served.zipped({CONFIG: "[]" * 2**16}), "at most 65536 bytes, got 131072"),
    # Each file takes a hundred bytes of the archive but kilobytes of memory.
    (served.zipped({str(i): "" for i in range(1001)}), "at most 1000 files"),
    # The file's content is damaged; the index is intact.
    (WHOLE[:55] + b"\xff\xff\xff" + WHOLE[58:], "the upload is not a zip file"),
  ],
)
def test_archives_are_refused(archive, message):
  with pytest.raises(ValueError, match=message):
    list(prompt_store._adapter_files(archive))


def test_two_servers_share_a_bucket(engine, prompts, monkeypatch):
  monkeypatch.setattr(prompt_store, "_REFRESH_SECONDS", (0.0, 0.0))
  array = prompts[1].array
  with bucket.in_place_of_googles():
    folder = f"gs://{bucket.BUCKET}/prompts"
    first, second = (PromptStore(folder, engine, "base") for _ in range(2))
    assert not first.all()
    for sign in (1, -1):  # Only the bucket tells these equal sizes apart.
      first.put("mine", served.npy(sign * array))
      known = asyncio.run(second.find("mine"))
      np.testing.assert_array_equal(known.array, sign * array)
      # The file is not read again.
      assert asyncio.run(second.find("mine")) is known
    second.delete("mine")
    asyncio.run(first.look())
    assert not first.all()


def test_a_named_prompt_is_copied_to_a_bucket(tmp_path, prompts, monkeypatch):
  monkeypatch.chdir(tmp_path)
  (tmp_path / "mine.npy").write_bytes(served.npy(prompts[1].array))
  with bucket.in_place_of_googles():
    folder = f"gs://{bucket.BUCKET}/prompts"
    words = f"serve mine.npy --checkpoint=none --prompts={folder}".split()
    for _ in range(2):  # The second time, the prompt exists already.
      command.complete(console.parse(words))
    array, _ = prompt_files.load_prompt(f"{folder}/mine.safetensors")
  np.testing.assert_array_equal(array, prompts[1].array)
  assert [path.name for path in tmp_path.iterdir()] == ["mine.npy"]
