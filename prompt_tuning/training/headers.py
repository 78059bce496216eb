"""Problems that a command's task, data and prompt files show before a run.

Finding them needs no TensorFlow or weights, and JAX only to read a prompt.
"""

from collections.abc import Iterator, Mapping, Sequence
import os
import pathlib
from typing import Any

from prompt_tuning import project_files
from prompt_tuning.data import row_files, task_names
from t5x.configuration import reading

_FILE_TASK = "prompt_tuning.file_task."


def problems(
  settings: Mapping[str, Any], gin_files: Sequence[str]
) -> Iterator[str]:
  """Yields problems; see `t5x.configuration.client.Client`.

  Args:
    settings: The resolved settings of the command, by name.
    gin_files: All its gin files.
  """
  modules = {x for k, x in settings.items() if k.endswith("Config.module")}
  # Other modules and files may register other tasks.
  is_ours = modules == {"prompt_tuning.tasks"} and all(map(_is_ours, gin_files))
  for check in (_check_task, _check_rows, _check_prompt, _check_vocabulary):
    try:
      if is_ours or check is not _check_task:
        check(settings)
    except (ValueError, OSError) as error:
      yield str(error)


def _is_ours(gin_file: str) -> bool:
  ours = pathlib.Path(project_files.gin_search_path())
  found = pathlib.Path(reading.find(gin_file, [".", str(ours)]))
  return found.resolve().is_relative_to(ours.resolve() / "gin")


def _check_task(settings: Mapping[str, Any]) -> None:
  known = task_names.all_names()
  for setting, name in settings.items():
    if setting.endswith((".task_name.task", ".mixture_or_task_name")):
      if name is None:
        raise ValueError(task_names.NONE_GIVEN)
      if isinstance(name, str) and name not in known:
        raise ValueError(task_names.unknown(name, known))


def _check_rows(settings: Mapping[str, Any]) -> None:
  paths = {
    split: path
    for split in ("train", "validation", "test")
    if (path := _on_disk(settings, f"{_FILE_TASK}{split}_file"))
  }
  if "train" in paths:
    row_files.choose_columns(
      {split: row_files.read(path) for split, path in paths.items()},
      paths,
      settings.get(f"{_FILE_TASK}input_columns"),
      settings.get(f"{_FILE_TASK}target_column"),
    )


def _check_prompt(settings: Mapping[str, Any]) -> None:
  if path := _on_disk(settings, "prompt_tuning.prompt_file_length.path"):
    # It imports JAX.
    from prompt_tuning import prompt_files

    width = prompt_files.load_prompt(path)[0].shape[1]
    expected = settings.get("prompt_tuning.T5Config.emb_dim", width)
    if width != expected:
      raise ValueError(
        f"PROMPT_FILE={path!r}: expected a prompt of width {expected}, that of "
        f"the model, got {width}. Name the gin file of the model that it was "
        "trained on."
      )


def _check_vocabulary(settings: Mapping[str, Any]) -> None:
  path = _on_disk(
    settings, "seqio.SentencePieceVocabulary.sentencepiece_model_file"
  )
  if path and not os.path.isfile(path):
    raise ValueError(
      f"VOCABULARY_FILE={path!r}: expected a SentencePiece model, got nothing. "
      "Give the one that belongs to the model; T5's: prompt-tuning import "
      f"t5_small. The working directory is {os.getcwd()}."
    )


def _on_disk(settings: Mapping[str, Any], name: str) -> str:
  """Returns a path; "" if it is not given, or in a bucket."""
  path = settings.get(name)
  return path if isinstance(path, str) and "://" not in path else ""
