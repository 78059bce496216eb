"""A model's arrays that several processes map."""

import numpy as np
import pytest
import seqio

import prompt_tuning as pt
from t5x import checkpoints


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_second_process_maps_what_the_first_has_read(
  base, dtype, tmp_path, monkeypatch
):
  def load():
    model = pt.load(base, seqio.ByteVocabulary(), dtype=dtype)
    model.shared_folder = str(tmp_path)
    return model

  alone = pt.load(base, seqio.ByteVocabulary(), dtype=dtype).in_memory.params
  first = load().in_memory.params
  with monkeypatch.context() as patch:
    patch.setattr(checkpoints.BaseCheckpoint, "read", None)
    second = load().in_memory.params
  with open("/proc/self/maps") as file:
    mapped = [x.split()[-1] for x in file if str(tmp_path) in x]
  assert first.keys() == second.keys() == alone.keys()
  for name, array in alone.items():
    assert second[name].dtype == dtype
    for shared in (first[name], second[name]):
      np.testing.assert_array_equal(shared, array)
  # The arrays are the files' pages, not copies of them.
  assert len(mapped) == 2 * len(alone)
