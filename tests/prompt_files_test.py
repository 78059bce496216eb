"""Tests of writing prompts to files and reading them back."""

import dataclasses
import hashlib
import tracemalloc

import jax.numpy as jnp
import ml_dtypes
import numpy as np
import pytest
import safetensors
import safetensors.numpy

from prompt_tuning import prompt_files

PLAIN = prompt_files.PromptMetadata("52cb", "eed7")
METADATA = dataclasses.replace(
  PLAIN, task="rte", step=1_100_200, metric="accuracy", score=100 / 3
)


@pytest.fixture
def prompt():
  rng = np.random.default_rng(0)
  return rng.normal(size=(5, 8)).astype(np.float32)


def test_the_file_is_what_is_documented(tmp_path, prompt):
  # Metadata refuses a score that readers would refuse.
  with pytest.raises(ValueError, match="expected a finite score, got nan"):
    dataclasses.replace(METADATA, score=float("nan"))
  path = tmp_path / "prompt.safetensors"
  prompt_files.save_prompt(path, prompt, METADATA)
  array, found = prompt_files.load_prompt(path)
  np.testing.assert_array_equal(array, prompt)
  assert found == METADATA
  with safetensors.safe_open(path, "numpy") as file:
    assert list(file.keys()) == ["prompt"]
    header = file.metadata()
    assert len(header.pop("header_sha256")) == 64
    assert header == {
      "format_version": "1",
      "prompt_length": "5",
      "prompt_width": "8",
      "prompt_sha256": hashlib.sha256(prompt.tobytes()).hexdigest(),
      "base_fingerprint": "52cb",
      "vocabulary_sha256": "eed7",
      "parameter_path": "encoder/prompt/prompt",
      "task": "rte",
      "step": "1100200",
      "metric": "accuracy",
      "score": repr(100 / 3),
    }


def test_npy_keeps_values(tmp_path, prompt):
  path = tmp_path / "prompt.npy"
  prompt_files.save_prompt(path, jnp.full((2, 3), 1.5, jnp.bfloat16))
  np.testing.assert_array_equal(np.load(path), np.full((2, 3), 1.5, "f4"))
  assert np.load(path).dtype == np.float32
  prompt_files.save_prompt(path, prompt, METADATA)
  np.testing.assert_array_equal(np.load(path), prompt)
  assert prompt_files.prompt_file_length(path) == 5
  np.save(path, np.asfortranarray(prompt))
  np.testing.assert_array_equal(prompt_files.load_prompt(path)[0], prompt)


@pytest.mark.parametrize("dtype", ["float64", "float16", ml_dtypes.bfloat16])
def test_reads_every_float_as_float32(tmp_path, prompt, dtype):
  array = prompt.astype(dtype)
  np.save(tmp_path / "prompt.npy", array)
  tensors = tmp_path / "prompt.safetensors"
  safetensors.numpy.save_file({"prompt": array}, tensors)
  for path in (tmp_path / "prompt.npy", tensors):
    found, metadata = prompt_files.load_prompt(path)
    assert found.dtype == np.float32
    np.testing.assert_array_equal(found, array.astype(np.float32))
    assert metadata is None


@pytest.mark.parametrize(
  ("array", "message"),
  [
    (np.zeros(8), r"expected .*\[length, width\], got \[8\]"),
    (np.zeros((0, 8)), r"\[0, 8\]"),
    (np.zeros((2, 8), np.int32), "floats, got int32"),
    (np.array([[0.0], [np.nan], [np.inf]]), r"NaN .* in rows \[1, 2\]"),
  ],
)
def test_refuses_what_is_no_prompt(tmp_path, array, message):
  path = tmp_path / "prompt.npy"
  np.save(path, array)
  with pytest.raises(ValueError, match=message):
    prompt_files.load_prompt(path)
  with pytest.raises(ValueError, match=message):
    prompt_files.save_prompt(tmp_path / "other.safetensors", array)
  assert [file.name for file in tmp_path.iterdir()] == ["prompt.npy"]


def test_a_missing_file_names_its_neighbours(tmp_path, prompt):
  prompt_files.save_prompt(tmp_path / "prompt.npy", prompt)
  for path in (tmp_path / "promt.npy", tmp_path):
    with pytest.raises(ValueError, match=r"Prompt files in .*: prompt\.npy"):
      prompt_files.load_prompt(path)
  with pytest.raises(ValueError, match="nowhere does not exist"):
    prompt_files.load_prompt(tmp_path / "nowhere" / "prompt.npy")


def test_refuses_other_formats_objects_and_tensors(tmp_path, prompt):
  for suffix in (".npy", ".safetensors"):
    path = tmp_path / f"prompt{suffix}"
    path.write_text("not an array at all")
    with pytest.raises(ValueError, match="is not a"):
      prompt_files.load_prompt(path)
  path = tmp_path / "prompt.npy"
  np.save(path, np.array([["a", 1]], object), allow_pickle=True)
  with pytest.raises(ValueError, match="OBJECT array"):
    prompt_files.load_prompt(path)
  path = tmp_path / "adapter.safetensors"
  safetensors.numpy.save_file({"lora": prompt}, path)
  with pytest.raises(ValueError, match=r"key 'prompt' alone, got \['lora'\]"):
    prompt_files.load_prompt(path)


@pytest.mark.parametrize(
  ("changes", "message"),
  [
    ({"format_version": "2"}, "version 1, got 2"),
    ({"step": "seven"}, r"prompt\.safetensors is .* numbers .*'seven'"),
    ({"score": "-inf"}, "expected .* numbers .* finite score, got -inf"),
    ({"prompt_length": "five"}, "numbers for the sizes.*'five'"),
    ({"prompt_length": "50"}, r"prompt of \[50, 8\], as .*, got \[5, 8\]"),
    ({"prompt_width": "7"}, r"prompt of \[5, 7\]"),
    ({"prompt_sha256": "0" * 64}, "do not match the digest"),
    *(
      ({name: None}, f"incomplete header, which lacks {name}")
      for name in (
        *("format_version", "prompt_length", "prompt_width"),
        *("base_fingerprint", "vocabulary_sha256", "parameter_path"),
      )
    ),
  ],
)
def test_refuses_a_header_it_cannot_read(tmp_path, prompt, changes, message):
  path = tmp_path / "prompt.safetensors"
  header = prompt_files.to_header(PLAIN, prompt)
  # A header may lack these two.
  del header["prompt_sha256"], header["header_sha256"]
  safetensors.numpy.save_file({"prompt": prompt}, path, header)
  assert prompt_files.load_prompt(path)[1] == PLAIN
  header = {k: v for k, v in {**header, **changes}.items() if v is not None}
  safetensors.numpy.save_file({"prompt": prompt}, path, header)
  with pytest.raises(ValueError, match=message):
    prompt_files.load_prompt(path)


@pytest.mark.parametrize(
  "changes",
  [{"step": "7"}, {"score": "99.0"}, {"task": "cb"}, {"metric": None}],
)
def test_what_a_header_tells_is_under_a_digest(tmp_path, prompt, changes):
  path = tmp_path / "prompt.safetensors"
  header = prompt_files.to_header(METADATA, prompt) | changes
  header = {k: v for k, v in header.items() if v is not None}
  safetensors.numpy.save_file({"prompt": prompt}, path, header)
  with pytest.raises(ValueError, match="the header does not match its digest"):
    prompt_files.load_prompt(path)


@pytest.mark.parametrize(
  "header",
  [
    # The shape claims 4 TB that the file does not have.
    "{'descr': '<f4', 'fortran_order': False, 'shape': (1000000, 1000000)}",
    "{'descr': '<f4', 'fortran_order': False, 'shape': (-1, -8)}",
    "{'descr': '<f4', 'fortran_order': False, 'shape': (2,)}",
    "{'descr': '<f4', 'fortran_order': False, 'shape': None}",
    "{'descr': 7, 'fortran_order': False, 'shape': (1, 2)}",
    "{'descr': '<f4', 'fortran_order': False, 'shape': (1, 2)",
    "{'descr': '<f4'}",
    "(" * 5000,
    '"' * 3,
  ],
)
def test_refuses_an_array_file_that_is_not_what_its_header_says(
  tmp_path, header
):
  path = tmp_path / "prompt.npy"
  length = len(header).to_bytes(2, "little")
  path.write_bytes(b"\x93NUMPY\1\0" + length + header.encode() + bytes(32))
  tracemalloc.start()
  with pytest.raises(ValueError, match=r"\.npy is not a NumPy array file"):
    prompt_files.load_prompt(path)
  assert tracemalloc.get_traced_memory()[1] < 10_000_000
  tracemalloc.stop()


def test_file_that_is_shortened_while_it_is_read_does_no_harm(
  tmp_path, prompt, monkeypatch
):
  """If the file were mapped, SIGBUS would end the process."""
  path = tmp_path / "prompt.safetensors"
  prompt_files.save_prompt(path, prompt)
  open_file = safetensors.safe_open

  def shorten(*args, **options):
    file = open_file(*args, **options)
    path.write_bytes(b"")
    return file

  monkeypatch.setattr(safetensors, "safe_open", shorten)
  np.testing.assert_array_equal(prompt_files.load_prompt(path)[0], prompt)


def test_names_the_other_model_and_the_other_vocabulary():
  prompt_files.check_compatible(METADATA, "52cb", "eed7")
  with pytest.raises(ValueError, match=r"fingerprint aaaa, .* with 52cb") as e:
    prompt_files.check_compatible(METADATA, "aaaa", "eed7")
  assert "vocabulary has" not in str(e.value)
  other = dataclasses.replace(METADATA, vocabulary_sha256="bbbb")
  with pytest.raises(ValueError, match=r"sha256 eed7, .* with bbbb"):
    prompt_files.check_compatible(other, "52cb", "eed7")
  # A model that could not be identified is not compared.
  unknown = dataclasses.replace(METADATA, base_fingerprint=prompt_files.UNKNOWN)
  prompt_files.check_compatible(unknown, "aaaa", "eed7")
  prompt_files.check_compatible(METADATA, prompt_files.UNKNOWN, "eed7")
  with pytest.raises(ValueError, match=r"sha256 bbbb, .* with eed7"):
    prompt_files.check_compatible(unknown, "aaaa", "bbbb")
