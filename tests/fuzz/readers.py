"""Every reader of bytes from outside, with a small good file for each."""

from fuzz import (
  data_readers,
  experiments_readers,
  models_readers,
  server_readers,
  trainer_readers,
)
from fuzz.reader import Reader

READERS: dict[str, Reader] = {
  **trainer_readers.READERS,
  **models_readers.READERS,
  **data_readers.READERS,
  **server_readers.READERS,
  **experiments_readers.READERS,
}
