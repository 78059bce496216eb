"""The official SuperGLUE release -> the TFDS data that the tasks read.

The release has a folder, or a zip file, of jsonl files per task:
`CB/train.jsonl` or `CB.zip`. TFDS's own builder writes the data. This module
checks every row before that, and that a data folder only holds complete data.
"""

from collections.abc import Callable, Iterator, Mapping
import contextlib
import dataclasses
import io
import json
import os
import pathlib
import shutil
from typing import Any
import zipfile

import tensorflow_datasets as tfds
import tqdm

Row = Mapping[str, Any]

_FILES = {
  "train": "train.jsonl",
  "validation": "val.jsonl",
  "test": "test.jsonl",
}
# Two noun phrases of WSC's test split, which other words interrupt.
_INTERRUPTED = ("Kamenev and Zinoviev", "Kamenev, Zinoviev, and Stalin")
_DPR = "definite_pronoun_resolution:1.1.0"
_DPR_COUNTS = {"train": 1_322, "test": 564}


def _own_idx(row: Row) -> Iterator[Any]:
  yield row["idx"]


def _multirc_idx(row: Row) -> Iterator[Any]:
  for question in row["passage"]["questions"]:
    for answer in question["answers"]:
      yield row["idx"], question["idx"], answer["idx"]


def _record_idx(row: Row) -> Iterator[Any]:
  for query in row["qas"]:
    yield query["idx"]


def _no_spans(row: Row) -> Iterator[tuple[str, str, Any]]:
  del row
  yield from ()


def _record_spans(row: Row) -> Iterator[tuple[str, str, Any]]:
  length = len(row["passage"]["text"])
  for i, entity in enumerate(row["passage"]["entities"]):
    start, end = entity["start"], entity["end"]
    if not 0 <= start <= end < length:
      expected = f"0 <= start <= end < {length}, the passage's length"
      yield f"passage.entities[{i}]", expected, (start, end)


def _wic_spans(row: Row) -> Iterator[tuple[str, str, Any]]:
  for n in (1, 2):
    start, end = row[f"start{n}"], row[f"end{n}"]
    length = len(row[f"sentence{n}"])
    if not 0 <= start < end <= length:
      expected = f"0 <= start < end <= {length}, the sentence's length"
      yield f"start{n}, end{n}", expected, (start, end)


def _wsc_spans(row: Row) -> Iterator[tuple[str, str, Any]]:
  length = len(row["text"].split())
  for n in (1, 2):
    index = row["target"][f"span{n}_index"]
    if not 0 <= index < length:
      yield f"target.span{n}_index", f"a word's index in [0, {length})", index
    span = row["target"][f"span{n}_text"]
    # What TFDS repairs: case, a full stop too many, a line break.
    words = span.rstrip(".").replace("\n", " ").lower()
    if words not in row["text"].lower() and span not in _INTERRUPTED:
      yield f"target.span{n}_text", "words of the text", repr(span)


@dataclasses.dataclass(frozen=True)
class ReleaseTask:
  """One task of the release.

  Attributes:
    config: TFDS's name of it.
    folder: The release's name of it.
    counts: Split -> its official number of examples.
    row: What a row must hold: a type, the legal values (a tuple), an object (a
      dict of these) or a list of one of these. A "label" may be absent from the
      test split.
    idx: A row -> the ids of its examples, which are unique in a file.
    wrong_spans: A row -> field, expected, got of the spans outside their text.
  """

  config: str
  folder: str
  counts: Mapping[str, int]
  row: Row
  idx: Callable[[Row], Iterator[Any]] = _own_idx
  wrong_spans: Callable[[Row], Iterator[tuple[str, str, Any]]] = _no_spans

  def file_name(self, split: str) -> str:
    # The diagnostics have one file, called as the folder.
    return _FILES[split] if len(self.counts) > 1 else f"{self.folder}.jsonl"


def _counts(train: int, validation: int, test: int) -> dict[str, int]:
  return {"train": train, "validation": validation, "test": test}


_ENTAILMENT = ("entailment", "not_entailment")
_SPAN = {"start": int, "end": int}
TASKS = (
  ReleaseTask(
    "boolq",
    "BoolQ",
    _counts(9_427, 3_270, 3_245),
    {"question": str, "passage": str, "idx": int, "label": bool},
  ),
  ReleaseTask(
    "cb",
    "CB",
    _counts(250, 56, 250),
    {
      "premise": str,
      "hypothesis": str,
      "idx": int,
      "label": ("entailment", "contradiction", "neutral"),
    },
  ),
  ReleaseTask(
    "copa",
    "COPA",
    _counts(400, 100, 500),
    {
      "premise": str,
      "choice1": str,
      "choice2": str,
      "question": ("cause", "effect"),
      "idx": int,
      "label": (0, 1),
    },
  ),
  ReleaseTask(
    "multirc",
    "MultiRC",
    _counts(27_243, 4_848, 9_693),
    {
      "idx": int,
      "passage": {
        "text": str,
        "questions": [
          {
            "question": str,
            "idx": int,
            "answers": [{"text": str, "idx": int, "label": (0, 1)}],
          }
        ],
      },
    },
    idx=_multirc_idx,
  ),
  ReleaseTask(
    "record",
    "ReCoRD",
    _counts(100_730, 10_000, 10_000),
    {
      "idx": int,
      "passage": {"text": str, "entities": [_SPAN]},
      "qas": [{"query": str, "idx": int, "answers": [{"text": str}]}],
    },
    idx=_record_idx,
    wrong_spans=_record_spans,
  ),
  ReleaseTask(
    "rte",
    "RTE",
    _counts(2_490, 277, 3_000),
    {"premise": str, "hypothesis": str, "idx": int, "label": _ENTAILMENT},
  ),
  ReleaseTask(
    "wic",
    "WiC",
    _counts(5_428, 638, 1_400),
    {
      "word": str,
      "sentence1": str,
      "sentence2": str,
      "start1": int,
      "start2": int,
      "end1": int,
      "end2": int,
      "idx": int,
      "label": bool,
    },
    wrong_spans=_wic_spans,
  ),
  ReleaseTask(
    "wsc.fixed",
    "WSC",
    _counts(554, 104, 146),
    {
      "text": str,
      "target": {
        "span1_text": str,
        "span2_text": str,
        "span1_index": int,
        "span2_index": int,
      },
      "idx": int,
      "label": bool,
    },
    wrong_spans=_wsc_spans,
  ),
  ReleaseTask(
    "axb",
    "AX-b",
    {"test": 1_104},
    {"sentence1": str, "sentence2": str, "idx": int, "label": _ENTAILMENT},
  ),
  ReleaseTask(
    "axg",
    "AX-g",
    {"test": 356},
    {"premise": str, "hypothesis": str, "idx": int, "label": _ENTAILMENT},
  ),
)
# A task, and its splits' files that were found.
_Found = tuple[ReleaseTask, Mapping[str, pathlib.Path]]
# Fields that the test splits leave out.
_HIDDEN = ("label", "answers")


@dataclasses.dataclass
class Report:
  """What happened, by TFDS name; `missing` has the release's file names."""

  built: list[str] = dataclasses.field(default_factory=list)
  kept: list[str] = dataclasses.field(default_factory=list)
  missing: list[str] = dataclasses.field(default_factory=list)


class _ReleaseBuilder(tfds.text.SuperGlue, skip_registration=True):
  """TFDS's builder, reading the files it is given instead of a download."""

  name = "super_glue"

  def __init__(
    self,
    *,
    files: Mapping[str, pathlib.Path],
    advance: Callable[[], Any],
    **kwargs: Any,
  ):
    self._files = files
    self._advance = advance
    super().__init__(**kwargs)

  def _split_generators(self, dl_manager: Any) -> Any:
    del dl_manager
    return {
      split: self._examples(path, split) for split, path in self._files.items()
    }

  def _examples(self, path: pathlib.Path, split: str) -> Iterator[Any]:
    for example in self._generate_examples(path, split):
      self._advance()
      yield example


def convert(
  release_dir: str | os.PathLike[str], data_dir: str | os.PathLike[str]
) -> Report:
  """Builds TFDS data from a folder of the official release, offline.

  Splits that the folder lacks are left out and reported. Data that is already
  there is kept, unless the folder has splits that it lacks. Nothing is built
  before every row has been checked.

  Args:
    release_dir: Has `CB/train.jsonl` ..., or `CB.zip` ....
    data_dir: TFDS's data folder, made if needed.

  Raises:
    ValueError: if the folder has none of the files, or a row is wrong.
  """
  release_dir, data_dir = pathlib.Path(release_dir), pathlib.Path(data_dir)
  report = Report()
  todo: list[_Found] = []
  with _staging(data_dir) as staging:
    for task in TASKS:
      files = _find_files(task, release_dir, staging)
      if not files:
        report.missing.append(task.folder)
        continue
      report.missing.extend(
        f"{task.folder}/{task.file_name(split)}"
        for split in task.counts
        if split not in files
      )
      name = _tfds_name(task)
      counts = {split: task.counts[split] for split in files}
      if _is_built(name, counts, data_dir):
        report.kept.append(name)
      else:
        todo.append((task, files))
    if not (todo or report.kept):
      raise ValueError(
        f"Expected the SuperGLUE release in {release_dir}, such as "
        "CB/train.jsonl or CB.zip, got none of its files. Pass the folder that "
        "holds the tasks' folders."
      )
    _check_files(todo)
    _build(todo, staging)
    for task, _ in todo:
      _publish(_tfds_name(task), staging, data_dir)
      report.built.append(_tfds_name(task))
  return report


def download(data_dir: str | os.PathLike[str]) -> Report:
  """Downloads and builds, with TFDS, everything that is not there yet.

  Raises:
    ValueError: if a dataset cannot be downloaded, or has not the official
      number of examples.
  """
  data_dir = pathlib.Path(data_dir)
  report = Report()
  datasets = {_tfds_name(task): task.counts for task in TASKS}
  datasets[_DPR] = _DPR_COUNTS
  for name, counts in datasets.items():
    if _is_built(name, counts, data_dir):
      report.kept.append(name)
      continue
    with _staging(data_dir) as staging:
      try:
        tfds.builder(name, data_dir=staging).download_and_prepare(
          download_dir=data_dir / "downloads"
        )
      except OSError as error:
        raise ValueError(
          f"Expected to download {name}, got: {error}. Without network, build "
          "it from a folder of the official release (--from)."
        ) from error
      if not _is_built(name, counts, staging):
        raise ValueError(
          f"Expected {name} to have {dict(counts)} examples, got something "
          "else from its server. Use a folder of the official release instead "
          "(--from)."
        )
      _publish(name, staging, data_dir)
    report.built.append(name)
  return report


def _build(todo: list[_Found], staging: pathlib.Path) -> None:
  total = sum(task.counts[split] for task, files in todo for split in files)
  with tqdm.tqdm(total=total, unit=" examples") as progress:
    for task, files in todo:
      progress.set_description(f"Building {task.folder}")
      builder = _ReleaseBuilder(
        files=files,
        advance=progress.update,
        config=task.config,
        data_dir=staging,
      )
      # TFDS prints what it does, in its own words.
      with contextlib.redirect_stdout(io.StringIO()):
        builder.download_and_prepare(
          download_config=tfds.download.DownloadConfig(try_download_gcs=False)
        )


def _tfds_name(task: ReleaseTask) -> str:
  return f"super_glue/{task.config}:1.0.2"


def _path(name: str, data_dir: pathlib.Path) -> pathlib.Path:
  return data_dir / name.replace(":", "/")


@contextlib.contextmanager
def _staging(data_dir: pathlib.Path) -> Iterator[pathlib.Path]:
  """A folder beside the data that is gone afterwards.

  It has a fixed name so that a run removes what a killed one left.
  """
  staging = data_dir / ".incomplete"
  shutil.rmtree(staging, ignore_errors=True)
  staging.mkdir(parents=True)
  try:
    yield staging
  finally:
    shutil.rmtree(staging)


def _is_built(
  name: str, counts: Mapping[str, int], data_dir: pathlib.Path
) -> bool:
  """Whether the splits in `counts` are there with as many examples."""
  path = _path(name, data_dir)
  if not (path / "dataset_info.json").exists():
    return False
  splits = tfds.builder_from_directory(path).info.splits
  return all(
    split in splits and splits[split].num_examples == count
    for split, count in counts.items()
  )


def _publish(name: str, staging: pathlib.Path, data_dir: pathlib.Path) -> None:
  target = _path(name, data_dir)
  target.parent.mkdir(parents=True, exist_ok=True)
  shutil.rmtree(target, ignore_errors=True)
  _path(name, staging).replace(target)


def _find_files(
  task: ReleaseTask, release_dir: pathlib.Path, staging: pathlib.Path
) -> dict[str, pathlib.Path]:
  """Split -> file, of the splits that the release has."""
  folder = release_dir / task.folder
  archive = release_dir / f"{task.folder}.zip"
  if not folder.is_dir() and archive.exists():
    folder = staging / task.folder
    names = {task.file_name(split) for split in task.counts}
    _extract(archive, names, folder)
  files = {split: folder / task.file_name(split) for split in task.counts}
  return {split: path for split, path in files.items() if path.exists()}


def _extract(
  archive: pathlib.Path, names: set[str], folder: pathlib.Path
) -> None:
  """Extracts the files called `names`, wherever in the archive they are."""
  folder.mkdir()
  try:
    with zipfile.ZipFile(archive) as zipped:
      for member in zipped.namelist():
        path = pathlib.PurePosixPath(member.replace("\\", "/"))
        if path.is_absolute() or ".." in path.parts or ":" in member:
          raise ValueError(
            f"{archive}: expected paths inside the archive, got {member!r}. "
            "This is not the official file; do not extract it."
          )
        if path.name in names:
          with (
            zipped.open(member) as source,
            (folder / path.name).open("wb") as target,
          ):
            shutil.copyfileobj(source, target)
  except zipfile.BadZipFile as error:
    raise ValueError(
      f"{archive}: expected a zip file, got something else ({error}). Fetch it "
      "again."
    ) from error


def _check_files(todo: list[_Found]) -> None:
  total = sum(p.stat().st_size for _, files in todo for p in files.values())
  with tqdm.tqdm(total=total, unit="B", unit_scale=True) as progress:
    for task, files in todo:
      for split, path in files.items():
        progress.set_description(f"Checking {task.folder}/{path.name}")
        _check_file(task, split, path, progress.update)


def _check_file(
  task: ReleaseTask,
  split: str,
  path: pathlib.Path,
  advance: Callable[[int], Any],
) -> None:
  """Checks every row of a file, and how many examples they are."""
  hidden = _HIDDEN if split == "test" else ()
  lines_by_idx: dict[Any, int] = {}
  with path.open("rb") as file:
    for number, line in enumerate(file, 1):
      where = f"{path}, line {number}"
      row = _parse(line, where)
      _check_value(row, task.row, where, "", hidden)
      for field, expected, got in task.wrong_spans(row):
        raise _error(where, field, expected, got)
      for idx in task.idx(row):
        if idx in lines_by_idx:
          seen = f"{idx!r}, also on line {lines_by_idx[idx]}"
          raise _error(where, "idx", "one that no other example has", seen)
        lines_by_idx[idx] = number
      advance(len(line))
  if len(lines_by_idx) != task.counts[split]:
    raise ValueError(
      f"{path}: expected {task.counts[split]} examples, got "
      f"{len(lines_by_idx)}. Use the complete file of the official release."
    )


def _parse(line: bytes, where: str) -> Any:
  try:
    return json.loads(line.decode("utf-8"))
  except UnicodeDecodeError as error:
    byte = f"byte {line[error.start]:#x} at position {error.start}"
    raise _error(where, "(the line)", "UTF-8", byte) from error
  except json.JSONDecodeError as error:
    raise _error(where, "(the line)", "JSON", error) from error


def _check_value(
  value: Any, expected: Any, where: str, field: str, hidden: tuple[str, ...]
) -> None:
  """Checks a value of a row against `ReleaseTask.row`, recursively."""
  if isinstance(expected, dict):
    _check_type(value, dict, where, field)
    for name, inner in expected.items():
      inner_field = f"{field}.{name}".lstrip(".")
      if name in value:
        _check_value(value[name], inner, where, inner_field, hidden)
      elif name not in hidden:
        raise _error(where, inner_field, "a value", "none")
  elif isinstance(expected, list):
    _check_type(value, list, where, field)
    for i, item in enumerate(value):
      _check_value(item, expected[0], where, f"{field}[{i}]", hidden)
  elif isinstance(expected, tuple):
    # By type as well: to Python, True is 1.
    if not any(value == v and type(value) is type(v) for v in expected):
      raise _error(where, field, f"one of {expected}", repr(value))
  else:
    _check_type(value, expected, where, field)


def _check_type(value: Any, expected: type, where: str, field: str) -> None:
  if type(value) is not expected:
    got = f"{value!r:.60} ({type(value).__name__})"
    raise _error(where, field or "(the line)", expected.__name__, got)
  if expected is str:
    try:
      value.encode("utf-8")
    except UnicodeEncodeError as error:  # JSON can spell half a character.
      raise _error(where, field, "text", f"{value!r:.60}") from error


def _error(where: str, field: str, expected: Any, got: Any) -> ValueError:
  return ValueError(
    f"{where}, field {field}: expected {expected}, got {got}. Use the file of "
    "the official release."
  )
