"""The official files of the benchmarks -> the TFDS data that the tasks read.

SuperGLUE and GLUE have a folder, or a zip file, per task: `CB/train.jsonl` or
`CB.zip`. SQuAD and MRQA have one folder. TFDS's own builders write the data.
This module checks every row first, and puts only complete data into a data
folder. If one task cannot be built, the others still are.
"""

from collections.abc import Iterator, Mapping
import contextlib
import dataclasses
import io
import pathlib
import re
import shutil
from typing import Any, ClassVar

from etils import epath
import filelock
import requests
import tensorflow_datasets as tfds
from tensorflow_datasets.question_answering import qa_utils
import tqdm

from prompt_tuning import project_files
from prompt_tuning.data.release import rows as release_rows
from prompt_tuning.data.release import zip_files

_DPR = "definite_pronoun_resolution:1.1.0"
_DPR_COUNTS = {"train": 1_322, "test": 564}
_DPR_SERVER = "https://s3.amazonaws.com"
# TFDS retries a silent server for minutes, task by task; asking once, for
# seconds, is enough.
_SERVER_SECONDS = 10
# Limit of a file in an archive. The largest of the releases, ReCoRD's
# train.jsonl, has 180 MB; a file that claims more could fill the disk.
_MAX_MEMBER_BYTES = 2**28
_DOWNLOAD_CONFIG = tfds.download.DownloadConfig(try_download_gcs=False)
Counts = Mapping[str, int]


@dataclasses.dataclass
class Report:
  """The outcome for each dataset.

  Attributes:
    built: TFDS name -> split -> its number of examples.
    kept: The same, for data that existed already.
    missing: Files or folders that the release lacks.
    failed: TFDS name -> the reason.
  """

  built: dict[str, Counts] = dataclasses.field(default_factory=dict)
  kept: dict[str, Counts] = dataclasses.field(default_factory=dict)
  missing: list[str] = dataclasses.field(default_factory=list)
  failed: dict[str, str] = dataclasses.field(default_factory=dict)


class _FromFiles(tfds.core.GeneratorBasedBuilder, skip_registration=True):
  """A TFDS builder that reads given files instead of downloading them."""

  def __init__(self, *, files: Mapping[str, pathlib.Path], **kwargs: Any):
    self._files = files
    super().__init__(**kwargs)

  def _split_generators(self, dl_manager: Any) -> Any:
    del dl_manager
    return {
      split: self._examples(path, split) for split, path in self._files.items()
    }

  def _examples(self, path: pathlib.Path, split: str) -> Iterator[Any]:
    name = f"Building {path.parent.name}/{path.name}"
    yield from tqdm.tqdm(self._read(path, split), name, unit=" examples")

  def _read(self, path: pathlib.Path, split: str) -> Iterator[Any]:
    read: Any = self._generate_examples
    return read(path, split)


class _SuperGlue(_FromFiles, tfds.text.SuperGlue, skip_registration=True):
  name = "super_glue"


class _Glue(_FromFiles, tfds.text.Glue, skip_registration=True):
  name = "glue"

  def _read(self, path: pathlib.Path, split: str) -> Iterator[Any]:
    config: Any = self.builder_config
    if config.name != "mrpc":
      kind = "test" if split.startswith("test") else split
      yield from super()._read(path, kind)
      return
    # TFDS splits another file by a list of ids; GLUE's is split already.
    task = next(x for x in release_rows.RELEASES["glue"] if x.config == "mrpc")
    for row in release_rows.table(task, split, path.read_bytes()):
      idx, label = row["idx"], int(row.get("Quality", -1))
      texts = {"sentence1": row["#1 String"], "sentence2": row["#2 String"]}
      yield idx, {**texts, "label": label, "idx": idx}


class _Squad(_FromFiles, skip_registration=True):
  """Data in SQuAD 1.1's form, under any name."""

  name = "squad"
  VERSION = tfds.core.Version("3.0.0")
  BUILDER_CONFIGS: ClassVar = [
    tfds.core.BuilderConfig(name=task.config)
    for task in release_rows.RELEASES["squad"]
    if task.format == "json"
  ]

  def _info(self) -> tfds.core.DatasetInfo:
    return self.dataset_info_from_configs(
      features=qa_utils.squadlike_features()
    )

  def _generate_examples(self, path: pathlib.Path, split: str) -> Iterator[Any]:  # pyright: ignore[reportIncompatibleMethodOverride]
    del split
    return qa_utils.generate_squadlike_examples(path)


class _Mrqa(_FromFiles, tfds.text.MRQA, skip_registration=True):
  name = "mrqa"


# Data set -> its builder.
_BUILDERS = {x.name: x for x in (_SuperGlue, _Glue, _Squad, _Mrqa)}


def convert(
  release_dir: epath.PathLike,
  data_dir: epath.PathLike,
  release: str = "superglue",
) -> Report:
  """Builds TFDS data from a folder of an official release, offline.

  Splits that the folder lacks are left out and reported. Existing data is kept,
  unless the folder has splits that are not built yet. A task is built after all
  of its rows have been checked; one with a wrong row is reported instead.

  Args:
    release_dir: Holds `CB/train.jsonl` ..., or `CB.zip` ....
    data_dir: TFDS's data folder, created if needed.
    release: One of `release_rows.RELEASES`.

  Raises:
    ValueError: if the folder has none of the files.
  """
  release_dir, data_dir = pathlib.Path(release_dir), pathlib.Path(data_dir)
  report = Report()
  tasks = release_rows.RELEASES[release]
  for task in tasks:
    name, names = task.tfds_name, task.files
    with _building(name, data_dir, report) as staging:
      folder = release_dir / task.folder
      archive = release_dir / f"{task.folder}.zip"
      if not folder.is_dir() and archive.exists():
        folder = staging / archive.name  # Errors about rows name it.
        _extract(archive, {*names.values()}, folder)
      paths = {split: folder / name for split, name in names.items()}
      files = {split: path for split, path in paths.items() if path.exists()}
      lost = [task.path(split) for split in names if split not in files]
      whole = [task.folder] if not files and task.folder != "." else lost
      report.missing.extend(x for x in whole if x not in report.missing)
      if not files:
        continue
      counts = {split: task.counts[split] for split in files}
      if _is_built(name, counts, data_dir):
        report.kept[name] = _splits(name, data_dir)
        continue
      if lost := set(_splits(name, data_dir)) - set(files):
        raise ValueError(
          f"Expected the files for {sorted(lost)} of {task.folder} too, "
          "because these splits exist already and would be lost. Put all files "
          f"of the task into one folder, or remove {_path(name, data_dir)}."
        )
      for split, path in files.items():
        what = f"Checking {task.path(split)}"
        with path.open("rb") as file:
          lines = tqdm.tqdm(file, what, unit=" lines")
          release_rows.check_lines(task, split, lines, str(path))
      data_set, config, version = re.split("[/:]", name)
      builder = _BUILDERS[data_set](
        files=files, config=config, version=version, data_dir=staging
      )
      # TFDS prints its own progress.
      with contextlib.redirect_stdout(io.StringIO()):
        builder.download_and_prepare(download_config=_DOWNLOAD_CONFIG)
  if not (report.built or report.kept or report.failed):
    first = tasks[0]
    raise ValueError(
      f"Expected the files of {release} in {release_dir}, such as "
      f"{first.path(next(iter(first.files)))}, got none of them. Pass the "
      "folder that holds the tasks' folders or files."
    )
  return report


def download(data_dir: epath.PathLike, release: str = "superglue") -> Report:
  """Downloads and builds, with TFDS, every dataset that is missing.

  A dataset that cannot be downloaded, or lacks the official number of examples,
  is reported.

  Raises:
    ValueError: if none of the servers that are needed answers.
  """
  data_dir = pathlib.Path(data_dir)
  report = Report()
  tasks = [x for x in release_rows.RELEASES[release] if x.server]
  datasets = {task.tfds_name: task.counts for task in tasks}
  known = {task.tfds_name: task.server for task in tasks}
  if release == "superglue":
    datasets[_DPR], known[_DPR] = _DPR_COUNTS, _DPR_SERVER
  for name, counts in datasets.items():
    if _is_built(name, counts, data_dir):
      report.kept[name] = _splits(name, data_dir)
  missing = [name for name in datasets if name not in report.kept]
  servers = {name: known[name] for name in missing}
  silent: dict[str, OSError] = {}
  for server in dict.fromkeys(servers.values()):
    try:
      requests.head(server, timeout=_SERVER_SECONDS)
    except OSError as error:
      silent[server] = error
  for name, server in servers.items():
    if len(silent) == len({*servers.values()}):
      raise ValueError(
        f"Cannot download from {server}: {silent[server]}. Without a network, "
        "build the data from a folder of the official release (--from)."
      ) from silent[server]
    if server in silent:
      report.failed[name] = f"{server}: {silent[server]}"
      continue
    with _building(name, data_dir, report) as staging:
      tfds.builder(name, data_dir=staging).download_and_prepare(
        download_dir=data_dir / "downloads",
        download_config=_DOWNLOAD_CONFIG,
      )
      if not _is_built(name, datasets[name], staging):
        raise ValueError(
          f"Expected {dict(datasets[name])} examples, but the server has other "
          "numbers. Use a folder of the official release (--from)."
        )
  return report


def _path(name: str, data_dir: pathlib.Path) -> pathlib.Path:
  return data_dir / name.replace(":", "/")


@contextlib.contextmanager
def _building(
  name: str, data_dir: pathlib.Path, report: Report
) -> Iterator[pathlib.Path]:
  """Yields a folder to build a dataset in, and removes it afterwards.

  A dataset that was built there joins the data; an error is reported. The
  folder's name is fixed, so that a run removes the folder of a killed run.
  """
  data_dir.mkdir(parents=True, exist_ok=True)
  staging = data_dir / ".incomplete"
  with filelock.FileLock(data_dir / ".lock"):  # Waits for another process.
    shutil.rmtree(staging, ignore_errors=True)
    staging.mkdir()
    try:
      yield staging
      if counts := _splits(name, staging):
        target = _path(name, data_dir)
        target.parent.mkdir(parents=True, exist_ok=True)
        shutil.rmtree(target, ignore_errors=True)
        _path(name, staging).replace(target)
        report.built[name] = counts
    except Exception as error:  # TFDS raises exceptions of many classes.
      report.failed[name] = str(error) or type(error).__name__
    finally:
      shutil.rmtree(staging)


def _is_built(
  name: str, counts: Mapping[str, int], data_dir: pathlib.Path
) -> bool:
  """Returns whether the splits exist with as many examples as in `counts`."""
  splits = _splits(name, data_dir)
  return all(
    split in splits and count in (0, splits[split])
    for split, count in counts.items()
  )


def _splits(name: str, data_dir: pathlib.Path) -> dict[str, int]:
  """Returns split -> number of examples, for the splits already built."""
  path = _path(name, data_dir)
  if not (path / "dataset_info.json").exists():
    return {}
  remedy = "Remove that folder, and build the data again."
  with project_files.parsing(path, "TFDS data", remedy):
    splits = tfds.builder_from_directory(path).info.splits
  return {split: info.num_examples for split, info in splits.items()}


def _extract(
  archive: pathlib.Path, names: set[str], folder: pathlib.Path
) -> None:
  """Extracts the files called `names` from any folder of the archive."""
  folder.mkdir()
  where = str(archive)
  with zip_files.opened(archive, where) as zipped:
    for info in zipped.infolist():
      member = info.filename
      path = pathlib.PurePosixPath(member.replace("\\", "/"))
      if path.is_absolute() or ".." in path.parts or ":" in member:
        raise ValueError(
          f"{archive}: expected paths inside the archive, got {member!r}. "
          "This is not the official file; do not extract it."
        )
      if path.name in names:
        with (
          zip_files.member(zipped, info, _MAX_MEMBER_BYTES, where) as source,
          (folder / path.name).open("wb") as target,
        ):
          shutil.copyfileobj(source, target)
