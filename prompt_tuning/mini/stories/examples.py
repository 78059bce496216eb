"""The miniature of SuperGLUE: eight tasks in the form of the real ones.

The examples have TFDS's features, but they describe a small closed world, and
scores on them say nothing about the real tasks. Each task mixes examples that a
small frozen T5 can be prompted to solve (noticing which words occur) with
harder ones (noticing which words belong together), in shares that the
functions' docstrings state. Examples come in groups that share words but not
their label, so that single words give little of the label away: a test compares
a bag-of-words classifier with the majority.
"""

from collections.abc import Callable, Mapping
import dataclasses
import functools
import itertools
import random

from prompt_tuning.mini.stories import commonsense, passages, world

EXAMPLES_PER_SPLIT = {"train": 2_000, "validation": 500, "test": 500}


@dataclasses.dataclass(frozen=True)
class MiniTask:
  """A task of the miniature.

  Attributes:
    make_group: `(rng, split, level) -> examples` that belong together.
    tenths_by_level: Kind of difficulty -> the share of such groups, in tenths,
      which sum to ten.
  """

  make_group: Callable[[random.Random, str, str], list[world.Features]]
  tenths_by_level: Mapping[str, int]


TASKS = {
  "boolq": MiniTask(passages.boolq, {"mention": 7, "kind": 1, "binding": 2}),
  "cb": MiniTask(passages.cb, {"state": 5, "denial": 3, "attitude": 2}),
  "copa": MiniTask(
    commonsense.copa, {"mention": 5, "world": 3, "direction": 2}
  ),
  "multirc": MiniTask(passages.multirc, {"mention": 8, "binding": 2}),
  "record": MiniTask(passages.record, {"kind": 5, "gender": 2, "binding": 3}),
  "rte": MiniTask(passages.rte, {"mention": 7, "outcome": 1, "binding": 2}),
  "wic": MiniTask(commonsense.wic, {"overlap": 7, "topic": 3}),
  "wsc": MiniTask(commonsense.wsc, {"gender": 4, "kind": 3, "motive": 3}),
}


@dataclasses.dataclass(frozen=True)
class Example:
  """An example and its level, which is not among the features."""

  level: str
  features: world.Features


@functools.cache
def examples(task: str, split: str) -> tuple[Example, ...]:
  """Returns all examples of a split, always the same ones.

  Args:
    task: One of TASKS, without "mini_".
    split: One of EXAMPLES_PER_SPLIT.
  """
  rng = random.Random(f"{task} {split}")
  row = TASKS[task]
  levels = [
    level
    for level, tenths in row.tenths_by_level.items()
    for _ in range(tenths)
  ]
  count = EXAMPLES_PER_SPLIT[split]
  made: list[Example] = []
  for level in itertools.cycle(levels):
    if len(made) >= count:
      break
    made += [Example(level, f) for f in row.make_group(rng, split, level)]
  made = made[:count]
  if task != "multirc":  # Its paragraphs and questions stay together.
    rng.shuffle(made)
  for number, example in enumerate(made):
    example.features["idx"] = _idx(task, number)
  return tuple(made)


def _idx(task: str, number: int) -> int | dict[str, int]:
  if task == "multirc":
    answers = passages.ANSWERS_PER_QUESTION
    return {
      "paragraph": number // (passages.QUESTIONS_PER_PARAGRAPH * answers),
      "question": number // answers,
      "answer": number % answers,
    }
  if task == "record":
    return {"passage": number, "query": number}
  return number
