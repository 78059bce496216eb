"""The fixtures of the room."""

from engines import *  # noqa: F403  # Fixtures.
import pytest
import served


@pytest.fixture
def service(engine, prompts, tmp_path):
  """A server of two prompts, without sockets."""
  service = served.make_service(engine, tmp_path / "prompts")
  for prompt in prompts[:2]:
    service.store.put(prompt.name, served.npy(prompt.array))
  return service
