"""The official SuperGLUE release -> the TFDS data that the tasks read.

The release has a folder, or a zip file, of jsonl files per task:
`CB/train.jsonl` or `CB.zip`. TFDS's own builder writes the data. This module
has every row checked before that, and sees to it that a data folder only ever
holds complete data.
"""

from collections.abc import Callable, Iterator, Mapping
import contextlib
import dataclasses
import io
import os
import pathlib
import shutil
from typing import Any
import zipfile

import tensorflow_datasets as tfds
import tqdm

from prompt_tuning.data.release import rows as release_rows
from prompt_tuning.data.release.rows import ReleaseTask

_DPR = "definite_pronoun_resolution:1.1.0"
_DPR_COUNTS = {"train": 1_322, "test": 564}
# A task, and its splits' files that were found.
_Found = tuple[ReleaseTask, Mapping[str, pathlib.Path]]


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
    for task in release_rows.TASKS:
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
  datasets = {_tfds_name(task): task.counts for task in release_rows.TASKS}
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
    folder = staging / archive.name  # Which an error about a row then names.
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
        release_rows.check_file(task, split, path, progress.update)
