"""What may be in memory at once."""

import asyncio
import time

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
