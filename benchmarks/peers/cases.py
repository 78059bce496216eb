"""Cases of the comparison: a model size, a batch, and the work on it."""

from collections.abc import Sequence
import dataclasses
import itertools
import json
import pathlib
import tomllib

import numpy as np

# Task -> feature -> length in tokens -> number of examples.
LENGTHS = json.loads(
  pathlib.Path(__file__).parents[1].joinpath("lengths.json").read_text()
)
_TABLES = tomllib.loads(
  pathlib.Path(__file__).with_name("cases.toml").read_text()
)
SIZES: dict[str, dict[str, int]] = _TABLES["sizes"]
TOLERANCES: dict[str, dict[str, float]] = _TABLES["tolerances"]
VOCAB_SIZE = 32128
PROMPTS = 8
# Token ids of the three answers to rank.
LABELS = ((1176,), (10747,), (59, 834, 35, 5756, 297))
# Number of batches of a task, enough to sample its lengths.
_TASK_BATCHES = 4
# Token ids that are not padding, the end, or a sentinel.
_IDS = (3, 32000)


@dataclasses.dataclass(frozen=True)
class Case:
  """One comparison.

  Attributes:
    work: "step" (of training), "greedy" (decoding), "rank" (labels), or
      "prompts" (greedy decoding with a prompt for each row).
    size: A key of `SIZES`.
    dtype: The dtype of activations and, where a side can, of frozen weights.
    batch: Number of examples.
    inputs: Tokens of each input; with a task, the maximum.
    task: A key of `LENGTHS`, for the lengths of inputs and targets.
    targets: Tokens of a full target, or tokens to decode.
    prompt: Positions of the prompt.
  """

  work: str
  size: str
  dtype: str
  batch: int
  inputs: int
  task: str | None = None
  targets: int = 16
  prompt: int = 100

  @property
  def name(self) -> str:
    lengths = self.task or f"i{self.inputs}"
    return f"{self.work}-{self.size}-{self.dtype}-b{self.batch}-{lengths}"

  @property
  def is_decoder(self) -> bool:
    return is_decoder(self.size)

  def longest(self, feature: str) -> int:
    """Returns the greatest number of tokens that an example can have."""
    most = self.inputs if feature == "inputs" else self.targets
    if self.task is None:
      return most
    return min(max(map(int, LENGTHS[self.task][feature])), most)

  def batches(self) -> list[dict[str, list[np.ndarray]]]:
    """Makes the batches, which are the same in every process.

    Returns:
      Batches of "inputs" and "targets", with an array of token ids that ends in
      1 for each example.
    """
    rng = np.random.default_rng(0)
    batches = []
    for _ in range(1 if self.task is None else _TASK_BATCHES):
      batches.append({})
      for feature in ("inputs", "targets"):
        lengths = np.full(self.batch, self.longest(feature))
        if self.task is not None:
          counts = LENGTHS[self.task][feature]
          share = np.array(list(counts.values()), np.float64)
          known = list(map(int, counts))
          drawn = rng.choice(known, self.batch, p=share / share.sum())
          lengths = np.minimum(drawn, lengths)
        batches[-1][feature] = [
          np.append(rng.integers(*_IDS, length - 1), 1).astype(np.int32)
          for length in lengths
        ]
    return batches


def is_decoder(size: str) -> bool:
  """Returns whether a key of `SIZES` belongs to a decoder."""
  return "num_kv_heads" in SIZES[size]


def padded(rows: Sequence[np.ndarray], length: int | None = None) -> np.ndarray:
  """Pads rows with zeros to [B, length], by default to the longest."""
  length = length or max(map(len, rows))
  return np.stack([np.pad(row, (0, length - len(row))) for row in rows])


def all_cases() -> dict[str, Case]:
  """Returns every case by name, grouped as in the table."""
  cases = []
  for grid in _TABLES["grids"]:
    axes = grid | ({"task": list(LENGTHS)} if "task" in grid else {})
    for values in itertools.product(*axes.values()):
      cases.append(Case(**dict(zip(axes, values, strict=True))))
  return {case.name: case for case in cases}
