"""Cases of the comparison: a size of model, a batch, and the work on it."""

import collections
from collections.abc import Mapping, Sequence
import dataclasses
import json
import pathlib
from typing import Any

import numpy as np

LENGTHS = pathlib.Path(__file__).parents[1] / "lengths.json"
# T5 1.1's, as in gin/models/t5_1_1_*.gin.
SIZES = {
  # For trying the benchmark.
  "tiny": {
    "emb_dim": 32,
    "num_heads": 4,
    "head_dim": 8,
    "mlp_dim": 64,
    "num_layers": 2,
  },
  "small": {
    "emb_dim": 512,
    "num_heads": 6,
    "head_dim": 64,
    "mlp_dim": 1024,
    "num_layers": 8,
  },
  "base": {
    "emb_dim": 768,
    "num_heads": 12,
    "head_dim": 64,
    "mlp_dim": 2048,
    "num_layers": 12,
  },
}
VOCAB_SIZE = 32128
TARGETS = 16
PROMPTS = 8
# Token ids of three answers to rank.
LABELS = ((1176,), (10747,), (59, 834, 35, 5756, 297))
# Inputs are cut to this length, the most that gin/runs/train.gin allows.
MOST_INPUTS = 512
# Batches of a task: enough to sample its lengths.
_TASK_BATCHES = 4
# Not padding, the end, or a sentinel.
_IDS = (3, 32000)


@dataclasses.dataclass(frozen=True)
class Case:
  """One comparison.

  Attributes:
    work: "step" of training, "greedy" decoding, "rank" of labels, or "prompts":
      greedy decoding with a prompt for each row.
    size: A key of `SIZES`.
    dtype: Of activations and, where a side can, of frozen weights.
    batch: Examples.
    inputs: Tokens of each input; with a task, the maximum.
    task: A key of lengths.json, for the lengths of inputs and targets.
    targets: Tokens of a full target, or to decode.
    prompt: Positions of the prompt.
  """

  work: str
  size: str
  dtype: str
  batch: int
  inputs: int
  task: str | None = None
  targets: int = TARGETS
  prompt: int = 100

  @property
  def name(self) -> str:
    lengths = self.task or f"i{self.inputs}"
    return f"{self.work}-{self.size}-{self.dtype}-b{self.batch}-{lengths}"

  @property
  def sides(self) -> tuple[str, ...]:
    """The sides to compare; speeds are relative to the last."""
    if self.work == "prompts":
      return ("ours", "ours, one prompt", "peft")
    return ("ours", "peft")

  def longest(self, feature: str) -> int:
    """Returns the most tokens that an example of a batch can have."""
    most = self.inputs if feature == "inputs" else self.targets
    if self.task is None:
      return most
    return min(max(map(int, _lengths()[self.task][feature])), most)

  def batches(self) -> list[dict[str, list[np.ndarray]]]:
    """Makes the batches, which are the same in every process.

    Returns:
      Batches of "inputs" and "targets", for each example an array of token ids
      that ends in 1.
    """
    rng = np.random.default_rng(0)
    number = 1 if self.task is None else _TASK_BATCHES
    return [
      {
        feature: [
          np.append(rng.integers(*_IDS, length - 1), 1).astype(np.int32)
          for length in self._draw(rng, feature)
        ]
        for feature in ("inputs", "targets")
      }
      for _ in range(number)
    ]

  def _draw(self, rng: np.random.Generator, feature: str) -> np.ndarray:
    longest = self.longest(feature)
    if self.task is None:
      return np.full(self.batch, longest)
    counts = _lengths()[self.task][feature]
    share = np.array(list(counts.values()), np.float64)
    lengths = np.array(list(map(int, counts)))
    drawn = rng.choice(lengths, self.batch, p=share / share.sum())
    return np.minimum(drawn, longest)


def _lengths() -> Mapping[str, Any]:
  return json.loads(LENGTHS.read_text())


def padded(rows: Sequence[np.ndarray], length: int | None = None) -> np.ndarray:
  """[B, length] with zeros at the end; by default as long as the longest."""
  length = length or max(map(len, rows))
  return np.stack([np.pad(row, (0, length - len(row))) for row in rows])


def all_cases() -> dict[str, Case]:
  """Returns every case by name, grouped as the table is."""
  cases = [
    Case("step", size, dtype, batch, inputs)
    for size in ("small", "base")
    for dtype in ("bfloat16", "float32")
    for batch in (8, 32)
    for inputs in (128, 512)
  ]
  cases += [
    Case("step", "small", "bfloat16", 32, MOST_INPUTS, task)
    for task in _lengths()
  ]
  for dtype in ("bfloat16", "float32"):
    cases += [
      Case("greedy", "small", dtype, 16, 192, targets=8, prompt=20),
      Case("rank", "small", dtype, 16, 192, targets=8, prompt=20),
      Case("prompts", "small", dtype, 16, 192, targets=8, prompt=20),
    ]
  cases += [
    Case("step", "tiny", "float32", 4, 24, targets=4, prompt=8),
    Case("greedy", "tiny", "float32", 4, 24, targets=4, prompt=8),
    Case("rank", "tiny", "float32", 4, 24, targets=8, prompt=8),
    Case("prompts", "tiny", "float32", 8, 24, targets=4, prompt=8),
  ]
  found = collections.OrderedDict((case.name, case) for case in cases)
  assert len(found) == len(cases), "names tell cases apart"
  return found
