"""Adapters that come as zip archives."""

import io
import zipfile

import pytest

pytest.importorskip("fastapi")

from prompt_tuning.serving import prompt_store


@pytest.mark.parametrize("kind", [zipfile.ZIP_BZIP2, zipfile.ZIP_LZMA])
def test_archive_that_is_unpacked_whole_is_refused(kind):
  """A few hundred bytes of them may hold what fills the memory."""
  buffer = io.BytesIO()
  with zipfile.ZipFile(buffer, "w", kind) as archive:
    archive.writestr("adapter_config.json", "{}" * 500)
  with pytest.raises(ValueError, match="stored or deflated"):
    list(prompt_store._adapter_files(buffer.getvalue()))


def test_configuration_is_of_kilobytes():
  """Lists of JSON take thirty times their bytes."""
  buffer = io.BytesIO()
  with zipfile.ZipFile(buffer, "w", zipfile.ZIP_DEFLATED) as archive:
    archive.writestr("adapter_config.json", "[]" * 2**16)
  with pytest.raises(ValueError, match="at most 65536 bytes, got 131072"):
    list(prompt_store._adapter_files(buffer.getvalue()))


def test_archive_of_many_files_is_refused():
  """Each takes kilobytes of memory, and a hundred bytes of the archive."""
  buffer = io.BytesIO()
  with zipfile.ZipFile(buffer, "w") as archive:
    for number in range(1001):
      archive.writestr(str(number), "")
  with pytest.raises(ValueError, match="at most 1000 files"):
    list(prompt_store._adapter_files(buffer.getvalue()))


def test_damaged_archive_is_no_archive():
  """Its index is whole, and so is the archive, but for three bytes."""
  buffer = io.BytesIO()
  with zipfile.ZipFile(buffer, "w", zipfile.ZIP_DEFLATED) as archive:
    archive.writestr("a/adapter_config.json", "{}" * 500)
  damaged = bytearray(buffer.getvalue())
  for i in (55, 56, 57):
    damaged[i] ^= 255
  with pytest.raises(ValueError, match="Expected a zip archive"):
    list(prompt_store._adapter_files(bytes(damaged)))
