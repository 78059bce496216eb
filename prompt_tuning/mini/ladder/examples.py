"""The ladder's tasks: SuperGLUE's format, and the pretraining prose's world.

The format is new to the pretrained models, and so are the stories: no
combination of facts, laws (in their order) or clauses is in two splits, or both
in validation or test and in the prose that a model of the ladder was pretrained
on.
"""

from collections.abc import Callable, Mapping, Sequence
import dataclasses
import functools
import itertools
import random

from prompt_tuning.mini.ladder import world
from prompt_tuning.mini.stories import commonsense
from prompt_tuning.mini.stories.examples import number
from prompt_tuning.mini.stories.world import Features

EXAMPLES_PER_SPLIT = {"train": 4_000, "validation": 400, "test": 400}


Maker = Callable[[random.Random, str, int], Features]


def _of_claim(
  statuses: Sequence[str],
  features: Mapping[str, str],
  domain: world.Domain = world.EVERYWHERE,
) -> Maker:
  """Returns the function that makes examples of a claim about a story.

  Args:
    statuses: The claim's status for each label.
    features: Feature -> sentence.
    domain: The domain of the story and the claim.
  """

  def make(rng: random.Random, split: str, label: int) -> Features:
    story = world.draw_story(rng, split, domain.facts, domain)
    claim = world.draw_claim(rng, story, statuses[label], domain)
    words = {**claim.words(), "story": world.tell(story, domain)}
    filled = {name: text.format(**words) for name, text in features.items()}
    return {**filled, "label": label}

  return make


def rte(rng: random.Random, split: str, label: int) -> Features:
  """Asks whether the premise entails a claim; half of the premises do."""
  story = world.draw_story(rng, split, 2)
  status = ("entailment", rng.choice(world.STATUSES[1:]))[label]
  claim = world.draw_claim(rng, story, status)
  return {
    "premise": world.tell(story),
    "hypothesis": f"{claim.statement} .",
    "label": label,
  }


def copa(rng: random.Random, split: str, label: int) -> Features:
  """Asks which choice is the premise's cause or effect. Half are choice1.

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


def record(rng: random.Random, split: str, label: int) -> Features:
  """Asks which of the two people of the passage is the placeholder."""
  story = world.draw_story(rng, split, 2)
  fact = story[label]
  return {
    "passage": world.tell(story),
    "query": dataclasses.replace(fact, who="@placeholder").statement,
    "entities": sorted(f.who for f in story),
    "answers": [fact.who],
  }


def wic(rng: random.Random, split: str, label: int) -> Features:
  """Asks whether a word has the same sense in two sentences. Half are True.

  Six words have two senses each, and each sense has four clauses in the prose.
  """
  word, clauses = world.draw_clauses(rng, split, same=bool(label))
  people = rng.sample(world.PEOPLE, 2)
  sentences = [
    f"{who} {clause} ." for who, clause in zip(people, clauses, strict=True)
  ]
  return commonsense.wic_example(word, sentences, label)


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


# Task -> the function that makes an example, and the number of its labels.
TASKS: dict[str, tuple[Maker, int]] = {
  make.__name__: (make, 2) for make in (copa, record, rte, wic, wsc)
} | {
  task: (_of_claim(**table), len(table["statuses"]))
  for task, table in world.TABLES["claims"].items()
}
# Tasks in several domains: a prompt learns one, and is scored on the others.
DOMAIN_TASKS = ("boolq", "cb")
for _task, (_name, _domain) in itertools.product(
  DOMAIN_TASKS, world.DOMAINS.items()
):
  _made = _of_claim(**world.TABLES["claims"][_task], domain=_domain)
  TASKS[f"{_task}_{_name}"] = _made, TASKS[_task][1]


@functools.cache
def features(task: str, split: str) -> tuple[Features, ...]:
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
  number(task, made)
  return tuple(made)
