"""A library of prompts, in which a new task finds prompts to start from.

SPoT (Vu et al., 2022) compares prompts of one frozen model by cosines, in two
ways, and starts the prompt of a task from those of similar tasks. For that, the
target's prompt is trained for a while first.
"""

from collections.abc import Iterable, Iterator, Sequence
import dataclasses
import pathlib
import re

import numpy as np
import pandas as pd

from prompt_tuning import prompt_files
from prompt_tuning.prompt_files import PromptMetadata

# The parts of a task's name before and after that of its data set.
_FAMILY = re.compile(r"^(super_glue|glue|ladder|mini)_|_(prefixed|sentinel)$")

_PAIRS = "mean cosine"


@dataclasses.dataclass(frozen=True)
class Source:
  """A prompt of the library.

  Attributes:
    file: Its file.
    array: [P, H].
    metadata: Its header.
  """

  file: pathlib.Path
  array: np.ndarray
  metadata: PromptMetadata

  @property
  def data_sets(self) -> list[str]:
    """The name of its task, and the data sets in it, between underscores.

    "_mrpc_" and "_qqp_" are in "glue_mrpc_from_qqp".
    """
    task = self.metadata.task or ""
    names = re.split("_(?:from|to|and)_", _FAMILY.sub("", task))
    return [f"_{x}_" for x in (task, *names) if x]


def read(paths: Sequence[pathlib.Path]) -> list[Source]:
  """Reads prompts with headers.

  Args:
    paths: Files, and folders, in which all `.safetensors` with a prompt are
      read.

  Raises:
    ValueError: if a named file lacks a prompt or a header, or the folders have
      no prompts.
  """
  found = []
  for path in paths:
    is_folder = path.is_dir()
    files = path.rglob("*.safetensors") if is_folder else [path]
    for file in sorted(x for x in files if x.is_file() or not is_folder):
      try:
        array, metadata = prompt_files.load_prompt(file)
        if metadata is None:
          raise ValueError(
            f"{file} does not say which model and task it is of."
          )
      except ValueError:
        if not is_folder:
          raise
        continue  # A folder may have other files.
      found.append(Source(file, array, metadata))
  if not found:
    raise ValueError(
      f"Expected prompts in {', '.join(map(str, paths))}, got none. A run "
      "writes its prompt to prompt.safetensors."
    )
  return found


def similarities(one: np.ndarray, other: np.ndarray) -> tuple[float, float]:
  """Compares two prompts, [P, H] and [Q, H], by SPoT's two measures.

  Returns:
    The cosine of the means over positions, and the mean of the cosines of all
    pairs of positions, both in [-1, 1].

  Raises:
    ValueError: if the prompts are of different widths.
  """
  if one.shape[1] != other.shape[1]:
    raise ValueError(
      f"Expected prompts of one width, got {one.shape[1]} and "
      f"{other.shape[1]}. Compare prompts of one frozen model."
    )
  means = [_unit(x.mean(axis=0)) for x in (one, other)]
  # The mean over pairs is the product of the means of the unit vectors.
  directions = [_unit(x).mean(axis=0) for x in (one, other)]
  return float(means[0] @ means[1]), float(directions[0] @ directions[1])


def _unit(x: np.ndarray) -> np.ndarray:
  x = x.astype(np.float64)
  return x / np.maximum(np.linalg.norm(x, axis=-1, keepdims=True), 1e-12)


def candidates(target: Source, sources: Iterable[Source]) -> Iterator[Source]:
  """Yields the sources that the prompt of a target may start from.

  They are of its frozen model and not of its data set: a prompt that has seen
  the data of a task says nothing about transfer to it. Those of a mixture that
  has the task's name in its own, or the reverse, do not serve either.
  """
  for source in sources:
    same_model = (
      source.metadata.base_fingerprint == target.metadata.base_fingerprint
      and source.array.shape[1] == target.array.shape[1]
    )
    is_same = any(
      x in y or y in x for x in source.data_sets for y in target.data_sets
    )
    is_same |= source.file.resolve() == target.file.resolve()
    if same_model and not is_same:
      yield source


def table(sources: Sequence[Source], target: Source | None) -> pd.DataFrame:
  """Lists prompts; with a target, the most similar to it first.

  Returns:
    Columns file, task, score, positions and model, the first letters of its
    fingerprint; with a target, both of `similarities`, the second of which
    sorts the rows.
  """
  rows = []
  for x in sources:
    row = {
      "file": str(x.file),
      "task": x.metadata.task,
      "score": x.metadata.score,
      "positions": len(x.array),
      "model": x.metadata.base_fingerprint[:8],
    }
    if target is not None:
      means, pairs = similarities(target.array, x.array)
      row |= {"cosine of means": means, _PAIRS: pairs}
    rows.append(row)
  frame = pd.DataFrame(rows)
  if target is None:
    return frame
  return frame.sort_values(_PAIRS, ascending=False, kind="stable")


def mixture(target: Source, sources: Iterable[Source], k: int) -> np.ndarray:
  """Mixes the k prompts that are most similar to a target's, by pairs.

  Returns:
    [P, H] float32, their mean with the similarities as weights.

  Raises:
    ValueError: if fewer than k are similar at all, or their lengths differ.
  """
  # A copy, such as a server's of a run's prompt, counts once.
  found = {x.array.tobytes(): x for x in sources}.values()
  scored = [(similarities(target.array, x.array)[1], x) for x in found]
  best = sorted(scored, key=lambda x: -x[0])[:k]
  if len(best) < k or best[-1][0] <= 0:
    positive = sum(weight > 0 for weight, _ in scored)
    raise ValueError(
      f"Expected {k} prompts whose similarity to {target.file} is above 0, got "
      f"{positive}. Mix fewer."
    )
  lengths = sorted({len(x.array) for _, x in best})
  if len(lengths) > 1:
    raise ValueError(
      f"Expected prompts of one length, got {lengths}: positions are mixed one "
      "by one. Mix fewer, or name only prompts of one length."
    )
  weights = np.array([weight for weight, _ in best])
  arrays = np.stack([x.array for _, x in best])
  return np.average(arrays, axis=0, weights=weights).astype(np.float32)
