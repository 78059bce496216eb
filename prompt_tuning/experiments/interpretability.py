"""The meaning of trained prompts, by initialisation (the paper's section 7).

The page compares the prompts beside the records of a sheet with the embeddings
of their base models.
"""

import collections
from collections.abc import Sequence
import functools
import pathlib
from typing import Any, Literal

from absl import logging
import numpy as np
import pandas as pd
import pydantic
import seqio

from prompt_tuning import prompt_files, tasks
from prompt_tuning.data import task_rows
from prompt_tuning.experiments.cells import Strict
from prompt_tuning.experiments.results import Results
from prompt_tuning.experiments.text_tables import Table
from prompt_tuning.inference import neighbours as analysis
from prompt_tuning.training import base_model


class Page(Strict):
  """The settings of the page.

  Attributes:
    title: Its title.
    about: Markdown.
    sheet: The sheet of the prompts.
    neighbours: Nearest pieces to look at, for each position.
    size: The model whose prompts are shown piece by piece.
    seed: Of those prompts.
    columns: Heading -> text, of `prompts`, their number; `mean` and `total` of
      the columns of `_reading`; and `kept`, those of prompts from labels.
    statements: What the paper says, and the heading of the column to see.
  """

  title: str
  about: str
  sheet: str
  neighbours: int = pydantic.Field(ge=2)
  size: str
  seed: int
  columns: dict[str, str]
  statements: list[dict[Literal["says", "see"], str]] = pydantic.Field(
    default_factory=list
  )


def read(results: Results, root: pathlib.Path, count: int) -> pd.DataFrame:
  """Reads the prompts of a sheet's runs, as far as they exist.

  Args:
    results: Of the sheet.
    root: The folder that base models are named from.
    count: Nearest pieces to look at.

  Returns:
    A row for each prompt, but for those whose base model is missing or another
    one by now: the axes of its cell, and the columns of `_reading`.
  """
  vocabulary = tasks.use_vocabulary(tasks.LADDER)
  embeddings = functools.cache(base_model.token_embedding)
  found = []
  for run in results.runs:
    path = run.stored.path.with_suffix(".safetensors") if run.stored else None
    base = run.record.base if run.record else None
    if path is None or not path.exists() or base is None:
      continue
    checkpoint = str(root / base.path)
    prompt, metadata = prompt_files.load_prompt(path)
    try:
      base_model.check_compatible([metadata], checkpoint, vocabulary)
      embedding = embeddings(checkpoint)
    except ValueError as e:
      logging.warning("%s is left out: %s", path.name, e)
      continue
    labels = task_rows.ROWS[str(run.cell.point["task"])].class_words
    reading = _reading(prompt, embedding, vocabulary, labels, count)
    found.append({**run.cell.point, **reading})
  return pd.DataFrame(found)


def _reading(
  prompt: np.ndarray,
  embeddings: np.ndarray,
  vocabulary: seqio.Vocabulary,
  labels: Sequence[str],
  count: int,
) -> dict[str, Any]:
  """Compares a prompt with the embeddings of its model.

  Returns:
    prompt_length: Number of positions.
    with_label: Positions that have a class label among their nearest pieces.
    labels: Number of class labels.
    found: Class labels that are among the nearest of some position.
    kept: Those that are still among the nearest of the position where a prompt
      from class labels starts with them.
    nearest: The nearest piece of each position.
    distinct: Different pieces in `nearest`.
    cosine: Mean cosine of a position with its nearest piece.
    tightness: Mean cosine of the nearest pieces of a position with each other.
    norm: Mean norm of a position, over that of the vocabulary.
    by_chance: Mean cosine of two pieces of the vocabulary.
    share: Share of the vocabulary's pieces that are class labels.
  """
  pieces = analysis.pieces_of(vocabulary)
  result = analysis.analyse(prompt, embeddings, vocabulary, labels, count)
  positions = result.positions
  unit = embeddings[: len(pieces)]
  unit = unit / np.linalg.norm(unit, axis=1, keepdims=True)
  ids = {piece: number for number, piece in enumerate(pieces)}
  near = [unit[[ids[x] for x in row]] for row in positions["neighbours"]]
  of_labels = set().union(
    *(analysis.recognised_by(x, vocabulary.encode, pieces) for x in labels)
  )
  seen = set(positions["labels"].explode())
  starts = zip(labels, positions["labels"], strict=False)
  nearest = positions["neighbours"].str[0].tolist()
  norm = np.mean(positions["norm"]) / result.embedding_norm
  return {
    "prompt_length": len(positions),
    "with_label": sum(map(bool, positions["labels"])),
    "labels": len(labels),
    "found": sum(label in seen for label in labels),
    "kept": sum(label in found for label, found in starts),
    "nearest": nearest,
    "distinct": len(set(nearest)),
    "cosine": positions["cosines"].str[0].mean(),
    "tightness": float(np.mean([_mean_cosine(x) for x in near])),
    "norm": float(norm),
    "by_chance": _mean_cosine(unit),
    "share": len(of_labels) / len(pieces),
  }


def _mean_cosine(unit: np.ndarray) -> float:
  """Returns the mean over pairs of different rows [n, H] of length 1."""
  n = len(unit)
  total = float(np.square(unit.sum(axis=0)).sum())
  return (total - n) / (n * (n - 1))


def page(page: Page, results: Results, root: pathlib.Path) -> str | None:
  """Returns the page, or None where no prompt is there.

  Args:
    page: Its settings.
    results: Of its sheet.
    root: The folder that base models are named from.
  """
  readings: Any = read(results, root, page.neighbours)
  if readings.empty:
    return None
  chance = 100 * (1 - (1 - readings["share"].mean()) ** page.neighbours)
  parts = [
    f"# {page.title}\n\n{page.about.strip()}\n",
    f"{len(readings)} prompts of {len(results.runs)} cells.\n",
    f"## Ours\n\n{_summary(page, results, readings).markdown()}",
    f"Of {page.neighbours} pieces drawn at random one is a class label in "
    f"{chance:.1f}% of cases, and two have a cosine of "
    f"{readings['by_chance'].mean():.2f}.\n",
    "## The paper's, section 7, and where to look\n",
    "".join(f"* {x['says']} → {x['see']}\n" for x in page.statements),
  ]
  is_shown = (readings["size"] == page.size) & (readings["seed"] == page.seed)
  rows = [
    [
      results.label(["init", "task"], [x["init"], x["task"]]),
      ", ".join(
        f"`{piece}` ({n})" if n > 1 else f"`{piece}`"
        for piece, n in collections.Counter(x["nearest"]).most_common()
      ),
    ]
    for x in readings[is_shown].to_dict("records")
  ]
  if rows:
    size = results.sheet.label("size", page.size)
    parts += [
      f"## Nearest pieces at size {size}, seed {page.seed}\n",
      "In brackets, of how many positions, of those of more than one.\n",
      Table(["Start and task", "Nearest pieces"], rows, left=2).markdown(),
    ]
  return "\n".join(parts)


def _summary(page: Page, results: Results, readings: Any) -> Table:
  """Returns a row for each start and size: means over tasks and seeds."""
  rows = []
  for place, some in readings.groupby(["init", "size"], sort=False):
    mean, total = some.mean(numeric_only=True), some.sum(numeric_only=True)
    kept = f"{total['kept']:.0f} of {total['labels']:.0f}"
    words = {
      **{"prompts": len(some), "mean": mean, "total": total},
      "kept": kept if place[0] == "class_labels" else "",
    }
    texts = (text.format(**words) for text in page.columns.values())
    rows.append([results.label(["init", "size"], place), *texts])
  headings = (x.format(neighbours=page.neighbours) for x in page.columns)
  return Table(["Start and size", *headings], rows)
