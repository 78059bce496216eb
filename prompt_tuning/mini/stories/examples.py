"""The miniature of SuperGLUE: eight tasks in the format of the real ones.

The examples have TFDS's features, but they describe a small closed world, and
scores on them say nothing about the real tasks. Each task mixes examples that a
small frozen T5 can be prompted to solve (noticing which words occur) with
harder ones (noticing which words belong together), in shares that the
functions' docstrings state. Examples come in groups that share words but not
their label, so that single words reveal little of the label: a test compares a
bag-of-words classifier with the majority.
"""

from collections.abc import Callable, Sequence
import functools
import itertools
import random

from prompt_tuning.mini.stories import commonsense, passages, world

EXAMPLES_PER_SPLIT = {"train": 2_000, "validation": 500, "test": 500}
MakeGroup = Callable[[random.Random, str, str], list[world.Features]]
# Task -> a function that makes a group of examples from a random generator, a
# split and a level; and the share of such groups at each level, in tenths.
TASKS: dict[str, tuple[MakeGroup, dict[str, int]]] = {
  "boolq": (passages.boolq, {"mention": 7, "kind": 1, "binding": 2}),
  "cb": (passages.cb, {"state": 5, "denial": 3, "attitude": 2}),
  "copa": (commonsense.copa, {"mention": 5, "world": 3, "direction": 2}),
  "multirc": (passages.multirc, {"mention": 8, "binding": 2}),
  "record": (passages.record, {"kind": 5, "gender": 2, "binding": 3}),
  "rte": (passages.rte, {"mention": 7, "outcome": 1, "binding": 2}),
  "wic": (commonsense.wic, {"overlap": 7, "topic": 3}),
  "wsc": (commonsense.wsc, {"gender": 4, "kind": 3, "motive": 3}),
}


@functools.cache
def features(task: str, split: str) -> tuple[world.Features, ...]:
  """Returns all examples of a split, the same ones every time.

  Args:
    task: One of TASKS, without `mini_`.
    split: One of EXAMPLES_PER_SPLIT.
  """
  rng = random.Random(f"{task} {split}")
  make_group, tenths = TASKS[task]
  levels = itertools.cycle(
    level for level, count in tenths.items() for _ in range(count)
  )
  count = EXAMPLES_PER_SPLIT[split]
  made: list[world.Features] = []
  while len(made) < count:
    made += make_group(rng, split, next(levels))
  del made[count:]
  if task != "multirc":  # Its paragraphs and questions stay together.
    rng.shuffle(made)
  number(
    task, made, passages.QUESTIONS_PER_PARAGRAPH, passages.ANSWERS_PER_QUESTION
  )
  return tuple(made)


def number(
  task: str,
  made: Sequence[world.Features],
  questions: int = 1,
  answers: int = 1,
) -> None:
  """Gives examples the "idx" of their task.

  Args:
    task: The task's name in SuperGLUE.
    made: The examples.
    questions: Successive questions of one paragraph, in MultiRC.
    answers: Successive answers to one question, in MultiRC.
  """
  for i, example in enumerate(made):
    example["idx"] = {
      "multirc": {
        "paragraph": i // (questions * answers),
        "question": i // answers,
        "answer": i % answers,
      },
      "record": {"passage": i, "query": i},
    }.get(task, i)
