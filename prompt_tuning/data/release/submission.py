"""Predictions on the test splits -> a submission to the leaderboard.

A submission is a zip file with one file per task, without folders, whose names,
ids and labels are those of super.gluebenchmark.com (jsonl) or gluebenchmark.com
(tsv).
"""

import collections
from collections.abc import Iterable, Iterator, Mapping, Sequence
import dataclasses
import json
import pathlib
import re
from typing import Any
import zipfile

from prompt_tuning import project_files
from prompt_tuning.data import postprocessors, task_rows
from prompt_tuning.data.release import rows as release_rows
from prompt_tuning.data.release import zip_files
from prompt_tuning.data.release.rows import ReleaseTask

# Name of the seqio task -> the task of its leaderboard.
_TASKS = {
  f"{prefix}_{task.name}": task
  for prefix, release in (("super_glue", "superglue"), ("glue", "glue"))
  for task in release_rows.RELEASES[release]
  if task.submitted_file
}
# Of a file in a submission; ReCoRD's 10,000 answers are about 1 MB.
_MAX_BYTES = 2**26
_AGAIN = "Remove the file, and run t5x.infer again."
_REMEDY = "Write the submission again, from the predictions."
# As `t5x.infer` names them.
_PREDICTIONS = re.compile(
  r"(?P<name>(?P<task>\w+?)(_classification)?(_prefixed)?)-predict\.jsonl"
  r"-(?P<shard>\d+)-of-(?P<shards>\d+)"
)


# Features that identify an example, where it is not "idx".
_IDX = {
  "multirc": ["idx/paragraph", "idx/question", "idx/answer"],
  "record": ["idx/query"],
}


def find_predictions(
  folders: Iterable[pathlib.Path],
) -> dict[str, tuple[task_rows.TaskRow, Sequence[pathlib.Path]]]:
  """Finds the files that `t5x.infer` wrote.

  Args:
    folders: The INFER_OUTPUT_DIRs.

  Returns:
    Task of the leaderboard, such as "super_glue_cb" -> the task that parses the
    texts, and its files, in the order of the test split.

  Raises:
    ValueError: if a folder has no predictions or lacks shards of a task, or two
      folders have the same task.
  """
  found = {}
  for folder in folders:
    shards = collections.defaultdict(list)
    for path in sorted(folder.glob("*")):
      match = _PREDICTIONS.fullmatch(path.name)
      # Texts with a sentinel would have to be parsed in another way.
      if match and match["task"] in _TASKS:
        key = match["task"], match["name"], int(match["shards"])
        shards[key].append(path)
    if not shards:
      others = [path.name for path in sorted(folder.glob("*.jsonl-*"))]
      raise ValueError(
        f"Expected super_glue_*-predict.jsonl-* or glue_* in {folder}, of "
        "plain or *_prefixed tasks, got "
        f"{', '.join(others[:5]) or 'none'}. Run t5x.infer on test splits, in "
        "MODE 'predict'."
      )
    for (task, name, count), paths in shards.items():
      if len(paths) != count:
        raise ValueError(
          f"Expected {count} shards of {name} in {folder}, got {len(paths)}. "
          "Let the other runs of t5x.infer finish."
        )
      _, others = found.setdefault(task, (task_rows.ROWS[name], paths))
      if others is not paths:
        raise ValueError(
          f"Expected {task} once, got {others[0]} and {paths[0]}. Leave one "
          "out."
        )
  return found


def rows(
  name: str,
  row: task_rows.TaskRow,
  paths: Sequence[pathlib.Path],
  replace_invalid: bool = False,
) -> list[dict[str, Any]]:
  """Turns predictions into the rows of a file.

  Args:
    name: The name in `find_predictions`.
    row: The task that parses the texts.
    paths: The predictions, in the order of the test split.
    replace_invalid: Whether to replace a text that is not a label, which the
      leaderboard refuses, by the task's most frequent prediction.

  Raises:
    ValueError: if a line is not a prediction on the test split, or its text is
      not a label.
  """
  task, postprocess = _TASKS[name], row.postprocess
  assert postprocess, "every task of the benchmark has one"
  answers: dict[Any, Any] = {}
  invalid = []
  for idx, example, text, where in _read(task, paths):
    result = postprocess(text, example)
    answer = result["value"] if isinstance(result, Mapping) else result
    if isinstance(answer, float) and not 0 <= answer <= 5:  # A similarity.
      answer = postprocessors.INVALID
    answers[idx] = answer
    if answer == postprocessors.INVALID:
      invalid.append(
        (idx, f"{where}: {text!r} is not an answer of {task.name}")
      )
  if invalid and not replace_invalid:
    raise ValueError(
      f"{invalid[0][1]}, like {len(invalid) - 1} more of {len(answers)}. Rank "
      "the labels (gin/decoding/rank.gin), or replace such texts with the most "
      "frequent prediction (--replace_invalid)."
    )
  if invalid:
    valid = [x for x in answers.values() if x != postprocessors.INVALID]
    usual = collections.Counter(valid or [0]).most_common(1)[0][0]
    answers |= {idx: usual for idx, _ in invalid}
  if task.answers:
    answers = {idx: task.answers[answer] for idx, answer in answers.items()}
  if task.name == "multirc":  # Paragraphs of questions of answers.
    paragraphs: dict[int, dict[int, list[dict[str, Any]]]] = {}
    for (paragraph, question, answer), label in sorted(answers.items()):
      questions = paragraphs.setdefault(paragraph, {})
      questions.setdefault(question, []).append({"idx": answer, "label": label})
    return [
      {
        "idx": paragraph,
        "passage": {
          "questions": [{"idx": i, "answers": x} for i, x in questions.items()]
        },
      }
      for paragraph, questions in paragraphs.items()
    ]
  return [{"idx": idx, "label": x} for idx, x in sorted(answers.items())]


def write(
  rows_by_task: Mapping[str, Sequence[Mapping[str, Any]]], path: pathlib.Path
) -> None:
  """Writes the zip file."""
  with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
    for name, task_rows in rows_by_task.items():
      task = _TASKS[name]
      if task.format == "tsv":
        lines = ["index\tprediction"]
        lines += [f"{row['idx']}\t{row['label']}" for row in task_rows]
      else:
        lines = map(json.dumps, task_rows)
      text = "".join(f"{line}\n" for line in lines)
      archive.writestr(task.submitted_file, text)


def check(path: pathlib.Path) -> list[str]:
  """Lists the reasons why the leaderboard would refuse a submission.

  Args:
    path: The zip file.

  Returns:
    A line for each problem; nothing if the file is complete and right.
  """
  problems = []
  names = set()
  try:
    with zip_files.opened(path, str(path)) as archive:
      names = set(archive.namelist())
      of_glue = any(name.endswith(".tsv") for name in names)
      for task in _TASKS.values():
        if (task.format == "tsv") != of_glue:
          continue
        if task.submitted_file not in names:
          problems.append(f"{task.submitted_file} is missing.")
          continue
        names.remove(task.submitted_file)
        info = archive.getinfo(task.submitted_file)
        text = zip_files.member(archive, info, _MAX_BYTES, str(path)).read()
        lines, name = text.splitlines(keepends=True), info.filename
        try:
          release_rows.check_lines(
            _submitted(task), "test", lines, name, _REMEDY
          )
        except ValueError as error:
          problems.append(str(error))
  except ValueError as error:
    return [*problems, str(error)]
  return problems + [
    f"{name} is not part of a submission." for name in sorted(names)
  ]


def _read(
  task: ReleaseTask, paths: Sequence[pathlib.Path]
) -> Iterator[tuple[Any, dict[str, Any], str, str]]:
  """Yields ids, examples, predictions, and their places in the files."""
  fields = _IDX.get(task.name, ["idx"])
  for path in paths:
    with path.open("rb") as file:
      for number, line in enumerate(file, 1):
        where = f"{path}, line {number}"
        what = f"a prediction of t5x.infer's, with inputs of {fields}"
        with project_files.parsing(where, what, _AGAIN):
          row = json.loads(line)
          example, text = row["inputs"], row["prediction"]
          if not isinstance(text, str):
            raise TypeError(f"the prediction {text!r:.100} is not text")
          idx = tuple(int(example[field]) for field in fields)
        yield idx[0] if len(fields) == 1 else idx, example, text, where


def _submitted(task: ReleaseTask) -> ReleaseTask:
  """Returns a task with the rows that the leaderboard accepts."""
  if task.format == "tsv":
    row = {"index": "number", "prediction": task.answers or "similarity"}
    return dataclasses.replace(
      task, row=row, columns=(), idx=lambda row: [int(row["index"])]
    )
  row: dict[str, Any] = {"idx": "index", "label": task.answers or "text"}
  if task.name == "multirc":
    questions = [{"idx": "index", "answers": [row]}]
    row = {"idx": "index", "passage": {"questions": questions}}
    return dataclasses.replace(task, row=row)
  return dataclasses.replace(
    task, row=row, idx=lambda row: [row["idx"]], wrong_spans=lambda row: ()
  )
