"""Tests that readers read any content or refuse it with a clean error."""

import sys

from fuzz import checking
import pytest

# When one read fails, Orbax abandons the others.
pytestmark = pytest.mark.filterwarnings(
  "ignore::pytest.PytestUnraisableExceptionWarning"
)


@pytest.fixture(autouse=True)
def _without_hook(monkeypatch):
  """Replaces pytest's hook, which fails at Python's recursion limit."""
  monkeypatch.setattr(sys, "unraisablehook", lambda _: None)


_ADAPTER = (
  b'{"peft_type": "PROMPT_TUNING", "task_type": "SEQ_2_SEQ_LM", '
  b'"num_virtual_tokens": 3, "base_model_name_or_path": %s}'
)
# Reader -> contents that once failed.
CORPUS: dict[str, list[bytes]] = {
  "gin binding": [b"X = {1: 2, [1]: 3}", b"X = " + b"[" * 5000],
  "gin file": [b"X = {1: 2, [1]: 3}", b"X = '\xff'", b"include 'x.gin'"],
  "sheet": [b"extends = 1", b"a = " + b"[" * 5000],
  "stored record": [b"\xff"],
  "record of a run": [b'{"data": []}', b"[" * 5000],
  "configuration of a run": [b'{"settings": [0]}', b"[" * 5000],
  "digests": [b"[" * 5000, b"\xff", b'{"sha256": {"/dev/zero": "0"}}'],
  "predictions": [
    b'{"inputs": {"idx": Infinity}, "prediction": "neutral"}',
    b'{"inputs": {"idx": 0}, "prediction": []}',
  ],
  "adapter's configuration": [
    _ADAPTER % b"true",
    _ADAPTER % (b'"' + b"[" * 300 + b'"'),
    _ADAPTER.replace(b": 3", b": 1") % b"null",
  ],
  "events of a cluster": [b"\n" * 100_000],
  "facts of a run": [b"[]", b"{}", b'{"evals": [1]}'],
}


@pytest.mark.parametrize(
  ("examples", "seed"),
  [
    (checking.EXAMPLES or 8, checking.SEED),
    pytest.param(300, checking.SEED + 1, marks=pytest.mark.slow),
  ],
)
@pytest.mark.parametrize("name", checking.READERS)
def test_mutations(tmp_path, name, examples, seed):
  counts = checking.Counts()
  checking.check(name, tmp_path, examples, seed, counts)
  assert counts.mutations >= examples


@pytest.mark.parametrize(
  ("name", "data"),
  [(name, data) for name, found in CORPUS.items() for data in found],
)
def test_contents_that_once_failed(tmp_path, name, data):
  reader = checking.READERS[name]
  path = tmp_path / reader.make(tmp_path)
  checking.check_one(reader, path, data, checking.Counts())
