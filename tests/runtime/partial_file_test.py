"""Whatever happens to what is written in chunks, the whole is right."""

import os

from damages import DAMAGES
import pytest

from t5x.files import partial_file

CHUNKS = [[f"line {i} of {n}\n" for i in range(4)] for n in range(3)]
WHOLE = "".join("".join(chunk) for chunk in CHUNKS)


def _write(path, stop_after=None):
  """Writes what is missing; returns how many lines were there."""
  file = partial_file.PartialFile(str(path))
  there = file.num_lines
  for chunk in CHUNKS[there // 4 : stop_after]:
    file.write(chunk)
  file.close(is_whole=stop_after is None)
  return there


def _double_a_line(path):
  first, rest = path.read_bytes().split(b"\n", 1)
  path.write_bytes(first + b"\n" + first + b"\n" + rest)


def _lose_a_newline(path):
  path.write_bytes(path.read_bytes().replace(b"\n", b"", 1))


MORE = {"a line doubled": _double_a_line, "a newline lost": _lose_a_newline}


@pytest.mark.parametrize("damage", [*DAMAGES, *MORE])
@pytest.mark.parametrize("suffix", [".partial", ".partial.digests"])
def test_damaged_part_is_written_again(tmp_path, damage, suffix):
  path = tmp_path / "predictions"
  _write(path, stop_after=2)
  (DAMAGES | MORE)[damage](path.with_name(path.name + suffix))
  assert _write(path) <= 8
  assert path.read_text() == WHOLE
  assert os.listdir(tmp_path) == ["predictions"]


def test_what_is_whole_is_kept(tmp_path):
  path = tmp_path / "predictions"
  _write(path, stop_after=2)
  with open(f"{path}.partial", "ab") as file:
    file.write(b"line 0 of")
  assert _write(path) == 8
  assert path.read_text() == WHOLE
