"""Prompts as files: `prompt.safetensors`, and the bare `.npy` of the paper.

A `.safetensors` file holds the array under the key `prompt` and its metadata in
the header. A `.npy` file holds the array alone.
"""

from collections.abc import Collection, Mapping
import dataclasses
import difflib
import hashlib
import io
import json
import math
import os
import tempfile

from etils import epath
import ml_dtypes
import numpy as np
import safetensors
import safetensors.numpy

from prompt_tuning import project_files
from prompt_tuning.types import Array

FORMAT_VERSION = 1
# The fingerprint of an unidentified model or vocabulary.
UNKNOWN = "unknown"
# The name of a prompt among the parameters of a T5, and of a decoder.
PARAMETER_PATH = "encoder/prompt/prompt"
PARAMETER_PATHS = (PARAMETER_PATH, "decoder/prompt/prompt")
_KEY = "prompt"
SUFFIXES = (".safetensors", ".npy")
_SIZES = ("format_version", "prompt_length", "prompt_width")
_HEADER_KEY = "header_sha256"
# Limit in characters of a header's fields, which servers list.
_LONGEST_FIELD = 1000


@dataclasses.dataclass(frozen=True)
class PromptMetadata:
  """The origin and the quality of a prompt.

  Attributes:
    base_fingerprint: identifies the frozen model's weights, or `UNKNOWN`.
    vocabulary_sha256: identifies the vocabulary of the input, or `UNKNOWN`.
    parameter_path: the prompt's name among the parameters.
    task: the seqio task or mixture.
    step: steps, counted from pretraining step 0.
    metric: the name of the dev metric that chose this prompt.
    score: the value of that metric.
    base_model: the path of the frozen model, or its name on the hub.

  Raises:
    ValueError: if the score is not finite, or a field is too long.
  """

  base_fingerprint: str
  vocabulary_sha256: str
  parameter_path: str = PARAMETER_PATH
  task: str | None = None
  step: int | None = None
  metric: str | None = None
  score: float | None = None
  base_model: str | None = None

  def __post_init__(self):
    if self.score is not None and not math.isfinite(self.score):
      raise ValueError(f"expected a finite score, got {self.score}")
    long = [k for k, x in vars(self).items() if len(str(x)) > _LONGEST_FIELD]
    if long:
      raise ValueError(
        f"expected fields of at most {_LONGEST_FIELD} characters, got more in "
        f"{', '.join(long)}"
      )


def save_prompt(
  path: str | os.PathLike[str],
  prompt: np.ndarray | Array,
  metadata: PromptMetadata | None = None,
) -> None:
  """Writes a prompt; an existing file is replaced whole or not at all.

  Args:
    path: ends in `.safetensors`, or in `.npy`, which cannot hold metadata.
    prompt: [P, H] The prompt. It is written as float32.
    metadata: what to write into the header.

  Raises:
    ValueError: if `prompt` is not a prompt, or the suffix is unknown.
  """
  path = epath.Path(path)
  array = checked(np.asarray(prompt), path)
  project_files.write(path, content(array, metadata, suffix_of(path)))


def content(
  array: np.ndarray, metadata: PromptMetadata | None, suffix: str
) -> bytes:
  """Returns the bytes of a prompt file.

  Args:
    array: [P, H] float32.
    metadata: what to write into the header.
    suffix: `.safetensors`, or `.npy`, which cannot hold metadata.
  """
  if suffix == ".npy":
    buffer = io.BytesIO()
    np.save(buffer, array, allow_pickle=False)
    return buffer.getvalue()
  header = None if metadata is None else to_header(metadata, array)
  return safetensors.numpy.save({_KEY: array}, header)


def load_prompt(
  path: str | os.PathLike[str],
) -> tuple[np.ndarray, PromptMetadata | None]:
  """Reads a prompt.

  Args:
    path: a `.safetensors` file with the key `prompt`, or a `.npy` file. The
      paper's code writes the latter during training, without a suffix.

  Returns:
    The prompt, [P, H] float32, and its metadata if the file has any.

  Raises:
    ValueError: if the file is missing or has no prompt.
  """
  path = epath.Path(path)
  if not path.is_file():
    raise ValueError(f"{path} is not a file.{_others(path)}")
  magic = np.lib.format.MAGIC_PREFIX
  with path.open("rb") as file:
    is_numpy = file.read(len(magic)) == magic
  if is_numpy or suffix_of(path) == ".npy":
    return checked(_read_numpy(path), path), None
  array, header = read_tensor(path, _KEY)
  array = checked(array, path)
  return array, from_header(header, array, path)


def _read_numpy(path: epath.Path) -> np.ndarray:
  """Reads an array file without allocating more than its size.

  Raises:
    ValueError: if it is another kind of file, contains objects, or its size
      does not match its header.
  """
  file = io.BytesIO(path.read_bytes())
  with project_files.parsing(path, "a NumPy array file"):
    major, minor = np.lib.format.read_magic(file)
    read = getattr(np.lib.format, f"read_array_header_{major}_{minor}")
    shape, is_fortran, dtype = read(file)
    values = np.frombuffer(file.read(), dtype)
    return values.reshape(shape, order="F" if is_fortran else "C").copy()


def read_tensor(
  path: str | os.PathLike[str], key: str
) -> tuple[np.ndarray, dict[str, str]]:
  """Reads the array and the header of a safetensors file.

  Raises:
    ValueError: if it is another kind of file, or has any other keys.
  """
  with (
    project_files.parsing(path, "a safetensors file that NumPy reads"),
    # A mapped file must not change: if another process truncated it meanwhile,
    # ours would be killed.
    tempfile.NamedTemporaryFile() as copy,
  ):
    copy.write(epath.Path(path).read_bytes())
    copy.flush()
    file = safetensors.safe_open(copy.name, framework="numpy")
    keys, header = list(file.keys()), file.metadata() or {}
    check_key(path, key, keys)
    return file.get_tensor(key), header


def check_key(
  path: str | os.PathLike[str], key: str, keys: Collection[str]
) -> None:
  """Raises ValueError unless a file has the given key and no others."""
  if [*keys] != [key]:
    some = f"{sorted(keys)[:5]}{' and more' if len(keys) > 5 else ''}"
    raise ValueError(f"{path}: expected the key {key!r} alone, got {some}.")


def prompt_file_length(path: str | os.PathLike[str]) -> int:
  """Returns P, the length in tokens, of the prompt in a file; gin uses it."""
  return len(load_prompt(path)[0])


def check_compatible(
  metadata: PromptMetadata, base_fingerprint: str, vocabulary_sha256: str
) -> None:
  """Checks that a prompt was trained on this model and vocabulary.

  Args:
    metadata: The prompt's metadata.
    base_fingerprint: The fingerprint of the model in use.
    vocabulary_sha256: The hash of the vocabulary in use. Values that are
      `UNKNOWN` on either side are not compared.

  Raises:
    ValueError: if one of the two differs.
  """
  problems = [
    f"the {what} has {name} {got}, and the prompt was trained with {expected}"
    for what, name, expected, got in (
      ("model", "fingerprint", metadata.base_fingerprint, base_fingerprint),
      ("vocabulary", "sha256", metadata.vocabulary_sha256, vocabulary_sha256),
    )
    if expected != got and UNKNOWN not in (expected, got)
  ]
  if problems:
    raise ValueError(
      f"The prompt belongs to another model: {'; '.join(problems)}. Use the"
      " checkpoint and the vocabulary it was trained with."
    )


def checked(array: np.ndarray, path: str | os.PathLike[str]) -> np.ndarray:
  """Returns an array as a float32 prompt, after checking its shape and values.

  Args:
    array: [P, H] Floats of any width.
    path: The array's file, for messages.

  Returns:
    [P, H] float32, contiguous.

  Raises:
    ValueError: if it cannot be a prompt.
  """
  array = np.asarray(array)
  if array.dtype == np.dtype("V2"):
    # NumPy's format has no name for bfloat16, and stores it as V2.
    array = array.view(ml_dtypes.bfloat16)
  if array.ndim != 2 or not array.size:
    raise ValueError(
      f"{path}: expected a prompt of shape [length, width], got"
      f" {list(array.shape)}."
    )
  if not np.issubdtype(array.dtype, np.floating) and (
    array.dtype != ml_dtypes.bfloat16
  ):
    raise ValueError(f"{path}: expected a prompt of floats, got {array.dtype}.")
  with np.errstate(over="ignore"):  # Overflows are found below.
    array = np.ascontiguousarray(array, np.float32)
  if not np.isfinite(array).all():
    rows = np.flatnonzero(~np.isfinite(array).all(axis=1))
    some = f"{rows[:5].tolist()}{' and more' if len(rows) > 5 else ''}"
    raise ValueError(
      f"{path}: the prompt has NaN or infinite values in rows {some}."
    )
  return array


def suffix_of(path: str | os.PathLike[str]) -> str:
  """Returns the suffix of a prompt file.

  Raises:
    ValueError: if the path has another suffix, or none.
  """
  path = epath.Path(path)
  if path.suffix not in SUFFIXES:
    raise ValueError(
      f"{path}: expected a prompt file that ends in {' or '.join(SUFFIXES)}."
      f"{_others(path)}"
    )
  return path.suffix


def _others(path: epath.Path) -> str:
  """Returns a sentence that lists the prompt files near a path."""
  folder = path if path.is_dir() else path.parent
  if not folder.is_dir():
    return f" The folder {folder} does not exist."
  names = [file.name for file in folder.iterdir() if file.suffix in SUFFIXES]
  near = difflib.get_close_matches(path.name, names, n=3, cutoff=0)
  return f" Prompt files in {folder}: {', '.join(near) or 'none'}."


def to_header(metadata: PromptMetadata, array: np.ndarray) -> dict[str, str]:
  """Returns the header of the safetensors file of a prompt [P, H]."""
  length, width = array.shape
  fields = {
    "format_version": FORMAT_VERSION,
    "prompt_length": length,
    "prompt_width": width,
    "prompt_sha256": _sha256(array),
    **dataclasses.asdict(metadata),
  }
  header = {
    name: str(value) for name, value in fields.items() if value is not None
  }
  return {**header, _HEADER_KEY: _header_sha256(header)}


def from_header(
  header: dict[str, str], array: np.ndarray, path: str | os.PathLike[str]
) -> PromptMetadata | None:
  """Returns the metadata in a header, or None if other software wrote it.

  Args:
    header: The header of the safetensors file.
    array: [P, H] The prompt in the file.
    path: The file, for messages.

  Raises:
    ValueError: if the header is from a newer format, incomplete, malformed, or
      does not match the prompt.
  """
  fields = [field.name for field in dataclasses.fields(PromptMetadata)]
  required = [*_SIZES, *fields[:3]]
  if not any(name in header for name in required):
    return None
  version = header.get("format_version", str(FORMAT_VERSION))
  if version != str(FORMAT_VERSION):
    raise ValueError(
      f"{path}: expected format version {FORMAT_VERSION}, got {version}."
      " A newer release of prompt-tuning may read it."
    )
  if missing := [name for name in required if name not in header]:
    raise ValueError(
      f"{path}: incomplete header, which lacks {', '.join(missing)}. The file "
      "is damaged: get another copy."
    )
  convert = {"step": int, "score": float}
  what = (
    "a prompt: expected a header with numbers for the sizes, step and score"
  )
  with project_files.parsing(path, what):
    sizes = int(header["prompt_length"]), int(header["prompt_width"])
    metadata = PromptMetadata(
      **{
        name: convert.get(name, str)(header[name])
        for name in fields
        if name in header
      }
    )
  if sizes != array.shape:
    raise ValueError(
      f"{path}: expected a prompt of {list(sizes)}, as its header says, got "
      f"{list(array.shape)}. The file is damaged: get another copy."
    )
  # Other tools may leave the digest out.
  if header.get("prompt_sha256", digest := _sha256(array)) != digest:
    raise ValueError(
      f"{path}: the values do not match the digest in the header. The file is "
      "damaged: get another copy."
    )
  # Older releases wrote no digest of the header.
  if header.get(_HEADER_KEY, digest := _header_sha256(header)) != digest:
    raise ValueError(
      f"{path}: the header does not match its digest: its task, step, score or "
      "origin has changed. The file is damaged: get another copy."
    )
  return metadata


def _header_sha256(header: Mapping[str, str]) -> str:
  """Identifies the fields of a header that this module reads."""
  names = [field.name for field in dataclasses.fields(PromptMetadata)]
  known = {*_SIZES, "prompt_sha256", *names}
  fields = sorted((k, x) for k, x in header.items() if k in known)
  return hashlib.sha256(json.dumps(fields).encode()).hexdigest()


def _sha256(array: np.ndarray) -> str:
  """Identifies the values of a prompt, [P, H] float32."""
  return hashlib.sha256(array.astype("<f4").tobytes()).hexdigest()
