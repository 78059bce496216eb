"""What trained prompts say, by what they started from (section 7 of the paper).

Made of the prompts that lie beside the records of a sheet, and of the
embeddings of their base models.
"""

import collections
from collections.abc import Iterable, Iterator, Mapping, Sequence
import dataclasses
import functools
import pathlib

from absl import logging
import numpy as np
import pydantic
import seqio

from prompt_tuning import prompt_files, tasks
from prompt_tuning.data import superglue
from prompt_tuning.experiments.layouts import AxisValue
from prompt_tuning.experiments.results import Results, Run
from prompt_tuning.experiments.toml_files import Strict
from prompt_tuning.inference import neighbours as analysis
from prompt_tuning.text_tables import Table
from prompt_tuning.training import base_model


class Statement(Strict):
  """Something that the paper says.

  Attributes:
    says: In our words.
    see: The heading of a column that it is about.
  """

  says: str
  see: str


class Page(Strict):
  """What the page is of.

  Attributes:
    title: Its title.
    about: Markdown.
    sheet: Whose prompts.
    neighbours: Nearest pieces to look at, for each position.
    size: The model whose prompts are shown piece by piece.
    seed: Of those prompts.
    statements: The paper's.
  """

  title: str
  about: str
  sheet: str
  neighbours: int = pydantic.Field(ge=2)
  size: str
  seed: int
  statements: list[Statement] = pydantic.Field(default_factory=list)


@dataclasses.dataclass(frozen=True)
class Reading:
  """A prompt beside the embeddings of its model.

  Attributes:
    point: The axes of its cell.
    analysis: Of each position.
    kept: Of the labels, in the order in which a prompt from class labels starts
      with them, those that are still among the nearest of that position.
    tightness: Mean cosine of the nearest pieces of a position with each other.
    by_chance: Mean cosine of two pieces of the vocabulary.
    share: Of the vocabulary's pieces that are class labels.
  """

  point: Mapping[str, AxisValue]
  analysis: analysis.Analysis
  kept: tuple[str, ...]
  tightness: float
  by_chance: float
  share: float

  @property
  def with_label(self) -> int:
    """How many positions have a class label among their nearest."""
    return sum(bool(x.labels) for x in self.analysis.positions)

  @property
  def distinct(self) -> int:
    """How many pieces are the nearest of some position."""
    return len({x.neighbours[0] for x in self.analysis.positions})


def read(results: Results, root: pathlib.Path, count: int) -> list[Reading]:
  """Reads the prompts that are there of a sheet's runs.

  Args:
    results: Of the sheet.
    root: The folder that base models are named from.
    count: Nearest pieces to look at.

  Returns:
    Of each, but of those whose base model is not there, or another one by now.
  """
  vocabulary = tasks.use_vocabulary(tasks.LADDER)
  embeddings = functools.cache(base_model.token_embedding)
  found = []
  for run in results.runs:
    path = _prompt_of(run)
    if path is None or run.record is None or run.record.base is None:
      continue
    checkpoint = str(root / run.record.base.path)
    prompt, metadata = prompt_files.load_prompt(path)
    try:
      if metadata is not None:
        base_model.check_compatible([metadata], checkpoint, vocabulary)
      embedding = embeddings(checkpoint)
    except ValueError as e:
      logging.warning("%s is left out: %s", path.name, e)
      continue
    labels = superglue.ROWS[str(run.cell.point["task"])].class_words
    found.append(_reading(run, prompt, embedding, vocabulary, labels, count))
  return found


def _prompt_of(run: Run) -> pathlib.Path | None:
  path = run.stored.path.with_suffix(".safetensors") if run.stored else None
  return path if path and path.exists() else None


def _reading(
  run: Run,
  prompt: np.ndarray,
  embeddings: np.ndarray,
  vocabulary: seqio.Vocabulary,
  labels: Sequence[str],
  count: int,
) -> Reading:
  pieces = analysis.pieces_of(vocabulary)
  found = analysis.analyse(prompt, embeddings, vocabulary, labels, count)
  unit = embeddings[: len(pieces)]
  unit = unit / np.linalg.norm(unit, axis=1, keepdims=True)
  ids = {piece: number for number, piece in enumerate(pieces)}
  near = [unit[[ids[piece] for piece in x.neighbours]] for x in found.positions]
  of_labels = set().union(
    *(analysis.recognised_by(x, vocabulary.encode, pieces) for x in labels)
  )
  return Reading(
    point=run.cell.point,
    analysis=found,
    kept=tuple(
      label
      for label, position in zip(labels, found.positions, strict=False)
      if label in position.labels
    ),
    tightness=float(np.mean([_mean_cosine(x) for x in near])),
    by_chance=_mean_cosine(unit),
    share=len(of_labels) / len(pieces),
  )


def _mean_cosine(unit: np.ndarray) -> float:
  """The mean over pairs of different rows [n, H] of length 1."""
  n = len(unit)
  total = float(np.square(unit.sum(axis=0)).sum())
  return (total - n) / (n * (n - 1))


def page(page: Page, results: Results, root: pathlib.Path) -> str | None:
  """Returns the page, or None where no prompt is there.

  Args:
    page: What it is of.
    results: Of its sheet.
    root: The folder that base models are named from.
  """
  readings = read(results, root, page.neighbours)
  return "\n".join(_markdown(page, results, readings)) if readings else None


def _markdown(
  page: Page, results: Results, readings: Sequence[Reading]
) -> Iterator[str]:
  yield f"# {page.title}\n\n{page.about.strip()}\n"
  yield f"{len(readings)} prompts of {len(results.runs)} cells.\n"
  yield f"## Ours\n\n{_summary(page, results, readings).markdown()}"
  chance = 100 * (1 - (1 - _mean(x.share for x in readings)) ** page.neighbours)
  yield (
    f"Of {page.neighbours} pieces drawn at random one is a class label in "
    f"{chance:.1f}% of cases, and two have a cosine of "
    f"{_mean(x.by_chance for x in readings):.2f}.\n"
  )
  yield "## The paper's, section 7, and where to look\n"
  yield "".join(f"* {x.says} → {x.see}\n" for x in page.statements)
  shown = [
    x
    for x in readings
    if x.point["size"] == page.size and x.point["seed"] == page.seed
  ]
  if shown:
    size = results.sheet.label("size", page.size)
    yield f"## Nearest pieces at size {size}, seed {page.seed}\n"
    yield "In brackets, of how many positions, of those of more than one.\n"
    yield _nearest(results, shown).markdown()


def _mean(values: Iterable[float]) -> float:
  return float(np.mean(list(values)))


def _summary(
  page: Page, results: Results, readings: Sequence[Reading]
) -> Table:
  """A row for each initialisation and size: means over tasks and seeds."""
  groups = collections.defaultdict(list)
  for x in readings:
    groups[x.point["init"], x.point["size"]].append(x)
  header = [
    "Start and size",
    "Prompts",
    f"Positions with a label among the nearest {page.neighbours}",
    "Labels found",
    "Labels kept where they stood",
    "Different nearest pieces",
    "Cosine of the nearest",
    "Cosine among the nearest",
    "Norm over the vocabulary's",
  ]
  rows = []
  for (init, size), some in groups.items():
    labels = sum(len(x.analysis.labels) for x in some)
    found = sum(len(x.analysis.found) for x in some)
    kept = sum(len(x.kept) for x in some)
    sheet = results.sheet
    rows.append(
      [
        f"{sheet.label('init', init)}, {sheet.label('size', size)}",
        str(len(some)),
        f"{_mean(x.with_label for x in some):.1f} of "
        f"{_mean(len(x.analysis.positions) for x in some):.0f}",
        f"{found} of {labels}",
        f"{kept} of {labels}" if init == "class_labels" else "",
        f"{_mean(x.distinct for x in some):.1f}",
        f"{_mean(map(_nearest_cosine, some)):.2f}",
        f"{_mean(x.tightness for x in some):.2f}",
        f"{_mean(map(_norm, some)):.1f}",
      ]
    )
  return Table(header, rows)


def _nearest_cosine(reading: Reading) -> float:
  return _mean(x.cosines[0] for x in reading.analysis.positions)


def _norm(reading: Reading) -> float:
  norms = _mean(x.norm for x in reading.analysis.positions)
  return norms / reading.analysis.embedding_norm


def _nearest(results: Results, readings: Sequence[Reading]) -> Table:
  """The nearest piece of each position, by start and task."""
  rows = []
  for x in readings:
    counts = collections.Counter(
      position.neighbours[0] for position in x.analysis.positions
    )
    texts = [
      f"`{piece}` ({count})" if count > 1 else f"`{piece}`"
      for piece, count in counts.most_common()
    ]
    start = results.sheet.label("init", x.point["init"])
    task = results.sheet.label("task", x.point["task"])
    rows.append([f"{start}, {task}", ", ".join(texts)])
  return Table(["Start and task", "Nearest pieces"], rows, left=2)
