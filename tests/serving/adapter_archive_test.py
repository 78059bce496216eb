"""Adapters that come as zip archives."""

import io
import zipfile

import pytest

pytest.importorskip("fastapi")

from prompt_tuning.serving import prompt_store


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
