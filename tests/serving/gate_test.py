"""What may be in memory at once."""

import asyncio
import time

import pytest
import served

from prompt_tuning.serving import gate


def test_uploads_wait_for_each_other(service, monkeypatch):
  monkeypatch.setattr(gate, "_UPLOADS", 2)
  inside, most = [], []

  def put(name, content):
    inside.append(name)
    time.sleep(0.1)
    most.append(len(inside))
    inside.remove(name)
    raise ValueError("It is none.")

  monkeypatch.setattr(service.store, "put", put)

  async def run():
    async with served.client(service) as http:
      answers = await asyncio.gather(
        *(http.put(f"/v1/prompts/{x}", content=b"none") for x in "abcdef")
      )
    assert {x.status_code for x in answers} == {400}

  asyncio.run(run())
  assert max(most) == 2


@pytest.mark.parametrize("method", ["GET", "DELETE"])
def test_what_is_no_upload_has_a_small_body(service, method):
  response = served.send(
    service, method, "/v1/prompts/prompt_1", content=b" " * (2**20 + 1)
  )
  served.check_error(response, 413, "at most 1048576 bytes")


def test_upload_that_waits_long_for_others_is_refused(
  engine, tmp_path, monkeypatch
):
  monkeypatch.setattr(gate, "_UPLOADS", 1)
  service = served.make_service(engine, tmp_path / "prompts", read_seconds=0.1)
  monkeypatch.setattr(service.store, "put", lambda *_: time.sleep(0.5))

  async def run():
    async with served.client(service) as http:
      answers = await asyncio.gather(
        *(http.put(f"/v1/prompts/{x}", content=b"") for x in "ab"),
        return_exceptions=True,
      )
    served.check_error(answers[1], 503, "Too many uploads")
    assert answers[1].headers["retry-after"] == "5"

  asyncio.run(run())
