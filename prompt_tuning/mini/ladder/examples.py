"""The ladder's tasks: SuperGLUE's form, the world of the pretraining prose.

The form is new to the pretrained models, and so are the stories: no combination
of facts, laws (in their order) or clauses is in two splits, or both in
validation or test and in the prose that a model of the ladder was pretrained
on.
"""

from collections.abc import Callable
import functools
import random
from typing import Any

from prompt_tuning.mini.ladder import world

# An example: TFDS's features of its task.
Features = dict[str, Any]

EXAMPLES_PER_SPLIT = {"train": 4_000, "validation": 400, "test": 400}


def boolq(rng: random.Random, split: str, label: int) -> Features:
  """Asks whether a claim is true. Half of the labels are True.

  A false claim names something that the passage does not.
  """
  story = world.draw_story(rng, split, 2)
  claim = world.draw_claim(rng, story, ("contradiction", "entailment")[label])
  return {
    "passage": world.tell(story),
    "question": claim.say(claim.relation.asks_whether),
    "label": label,
  }


def cb(rng: random.Random, split: str, label: int) -> Features:
  """Asks whether the premise entails or contradicts a claim, or neither.

  A third of the labels each.
  """
  story = world.draw_story(rng, split, 2)
  claim = world.draw_claim(rng, story, world.STATUSES[label])
  return {
    "premise": world.tell(story),
    "hypothesis": f"{claim.statement} .",
    "label": label,
  }


def rte(rng: random.Random, split: str, label: int) -> Features:
  """Asks whether the premise entails a claim. Half of the labels say so."""
  story = world.draw_story(rng, split, 2)
  status = ("entailment", rng.choice(world.STATUSES[1:]))[label]
  claim = world.draw_claim(rng, story, status)
  return {
    "premise": world.tell(story),
    "hypothesis": f"{claim.statement} .",
    "label": label,
  }


def copa(rng: random.Random, split: str, label: int) -> Features:
  """Asks which choice is the premise's cause, or effect. Half are choice1.

  The premise and the right choice form one of the twelve laws of the prose.
  Twelve laws make 264 questions, so rows repeat: see the tests.
  """
  law, other, part = world.draw_laws(rng, split)
  choices = [f"{law[part]} .", f"{other[part]} ."]
  return {
    "premise": f"{law[1 - part]} .",
    "choice1": choices[label],
    "choice2": choices[1 - label],
    "question": ("cause", "effect")[part],
    "label": label,
  }


def multirc(rng: random.Random, split: str, label: int) -> Features:
  """Asks whether an answer to a question is right. Half are True."""
  story = world.draw_story(rng, split, 2)
  claim = world.draw_claim(rng, story, ("contradiction", "entailment")[label])
  return {
    "paragraph": world.tell(story),
    "question": f"{claim.say(claim.relation.asks_what)} ?",
    "answer": claim.value,
    "label": label,
  }


def record(rng: random.Random, split: str, label: int) -> Features:
  """Asks which of the two people of the passage is the placeholder."""
  story = world.draw_story(rng, split, 2)
  fact = story[label]
  return {
    "passage": world.tell(story),
    "query": fact.relation.statement.format(
      who="@placeholder", value=fact.value
    ),
    "entities": sorted(f.who for f in story),
    "answers": [fact.who],
  }


def wic(rng: random.Random, split: str, label: int) -> Features:
  """Asks whether a word has the same sense in two sentences. Half are True.

  There are six words of two senses, each in four clauses of the prose.
  """
  word, clauses = world.draw_clauses(rng, split, same=bool(label))
  example: Features = {"word": word, "label": label}
  people = rng.sample(world.PEOPLE, 2)
  for n, (who, clause) in enumerate(zip(people, clauses, strict=True), start=1):
    sentence = f"{who} {clause} ."
    start = sentence.index(f" {word}") + 1
    example |= {
      f"sentence{n}": sentence,
      f"start{n}": start,
      f"end{n}": start + len(word),
    }
  return example


def wsc(rng: random.Random, split: str, label: int) -> Features:
  """Asks whether a pronoun means the woman or the man. Half are True."""
  meeting = world.draw_meeting(rng, split)
  text = meeting.statement
  named = meeting.who if label else meeting.other
  return {
    "text": f"{text} .",
    "span1_text": named,
    "span1_index": text.split().index(named),
    "span2_text": meeting.pronoun,
    "span2_index": text.split().index(meeting.pronoun),
    "label": label,
  }


TASKS: dict[str, tuple[Callable[[random.Random, str, int], Features], int]] = {
  "boolq": (boolq, 2),
  "cb": (cb, 3),
  "copa": (copa, 2),
  "multirc": (multirc, 2),
  "record": (record, 2),
  "rte": (rte, 2),
  "wic": (wic, 2),
  "wsc": (wsc, 2),
}


@functools.cache
def examples(task: str, split: str) -> tuple[Features, ...]:
  """Returns all examples of a split, the same ones every time.

  Args:
    task: One of TASKS.
    split: One of EXAMPLES_PER_SPLIT.
  """
  rng = random.Random(f"ladder {task} {split}")
  make, labels = TASKS[task]
  count = EXAMPLES_PER_SPLIT[split]
  made = [make(rng, split, i % labels) for i in range(count)]
  rng.shuffle(made)
  for number, example in enumerate(made):
    example["idx"] = {
      "multirc": {"paragraph": number, "question": number, "answer": 0},
      "record": {"passage": number, "query": number},
    }.get(task, number)
  return tuple(made)
