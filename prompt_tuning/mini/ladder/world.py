"""The ladder's world: its people, relations, laws and words.

It is much smaller than that of `mini.stories`, because models of some hundred
thousand parameters have to learn all of it within minutes: twelve people, three
relations of six values, twelve laws of cause and effect, six words of two
senses. Everything is one short English clause.
"""

from collections.abc import Hashable, Iterable
import dataclasses
import random
import zlib

WOMEN = ("Anna", "Mary", "Lucy", "Emma", "Sarah", "Kate")
MEN = ("Tom", "John", "Peter", "David", "Paul", "Adam")
PEOPLE = (*WOMEN, *MEN)


@dataclasses.dataclass(frozen=True)
class Relation:
  """A relation of a person to a value.

  In the sentences {who} is a person and {value} one of `values`.

  Attributes:
    values: The possible values.
    statement: A statement of the relation.
    asks_whether: The same as a question.
    asks_who: A question whose answer is the person.
    asks_what: A question whose answer is the value.
    answers_what: The words before the value in that answer, as in "in the".
  """

  values: tuple[str, ...]
  statement: str
  asks_whether: str
  asks_who: str
  asks_what: str
  answers_what: str


RELATIONS = (
  Relation(
    values=("park", "school", "kitchen", "garden", "market", "library"),
    statement="{who} is in the {value}",
    asks_whether="is {who} in the {value}",
    asks_who="who is in the {value}",
    asks_what="where is {who}",
    answers_what="in the",
  ),
  Relation(
    values=("dog", "horse", "ball", "drum", "kite", "boat"),
    statement="{who} has a {value}",
    asks_whether="has {who} got a {value}",
    asks_who="who has a {value}",
    asks_what="what has {who} got",
    answers_what="a",
  ),
  Relation(
    values=("tea", "milk", "soup", "cake", "fish", "rice"),
    statement="{who} likes {value}",
    asks_whether="does {who} like {value}",
    asks_who="who likes {value}",
    asks_what="what does {who} like",
    answers_what="some",
  ),
)


@dataclasses.dataclass(frozen=True)
class Fact:
  """A relation that holds for a person."""

  who: str
  relation: Relation
  value: str

  def say(self, template: str) -> str:
    return template.format(who=self.who, value=self.value)

  @property
  def statement(self) -> str:
    return self.say(self.relation.statement)


def tell(story: Iterable[Fact]) -> str:
  return " ".join(f"{fact.statement} ." for fact in story)


# Causes and their effects.
LAWS = (
  ("the rain fell", "the street was wet"),
  ("the sun came out", "the snow melted"),
  ("the wind blew", "the leaves flew away"),
  ("the oven was hot", "the bread burned"),
  ("the lamp was off", "the room was dark"),
  ("the door was open", "the cat ran away"),
  ("night came", "the birds slept"),
  ("a stone hit the window", "the glass broke"),
  ("the clock stopped", "the train was missed"),
  ("the joke was good", "people laughed"),
  ("the shop was closed", "nobody bought food"),
  ("the river froze", "children skated on ice"),
)

# Word -> for each of its two senses, its kind and clauses that fit it.
SENSES = {
  "bat": {
    "animal": (
      "saw a bat in the cave",
      "heard a bat at night",
      "fed the bat some insects",
      "woke the sleeping bat",
    ),
    "tool": (
      "hit hard with the bat",
      "swung the wooden bat",
      "bought a bat for sport",
      "broke a bat in the game",
    ),
  },
  "bank": {
    "office": (
      "put gold in the bank",
      "borrowed money from the bank",
      "works at the bank",
      "robbed a rich bank",
    ),
    "land": (
      "sat on the green bank",
      "swam to the bank",
      "found frogs on the bank",
      "fell from the muddy bank",
    ),
  },
  "ring": {
    "jewel": (
      "wore a ring of silver",
      "gave the bride a ring",
      "polished the ring",
      "lost a precious ring",
    ),
    "sound": (
      "answered after one ring",
      "heard the ring of a phone",
      "waited for a loud ring",
      "ran at the ring of bells",
    ),
  },
  "seal": {
    "animal": (
      "watched the seal swim",
      "threw herring to a seal",
      "touched the wet seal",
      "saw a seal on the beach",
    ),
    "stamp": (
      "pressed a seal of wax",
      "broke the seal of the letter",
      "signed it under the seal",
      "put a seal on the paper",
    ),
  },
  "nail": {
    "body": (
      "cut a nail too short",
      "painted a nail red",
      "bit a nail nervously",
      "has dirt under a nail",
    ),
    "metal": (
      "hammered a nail in",
      "pulled the nail from wood",
      "hung the picture on a nail",
      "stepped on a rusty nail",
    ),
  },
  "match": {
    "fire": (
      "lit a match",
      "burned a finger with the match",
      "struck the match on a box",
      "made smoke with a match",
    ),
    "sport": (
      "won the match",
      "played a long match",
      "cheered at the match",
      "scored in the match",
    ),
  },
}

# Verbs of a meeting of two people, and the mood of one of them.
MEETINGS = ("met", "called", "visited", "helped")
MOODS = ("tired", "hungry", "sick", "sad", "angry", "late")

_PARTS = 6


def split_of(*combination: Hashable) -> str:
  """Returns the split of a combination of facts, laws or clauses.

  Four of six combinations are for pretraining and training. Combinations for
  validation or test are in none of their stories.
  """
  number = zlib.crc32(repr(combination).encode()) % _PARTS
  return {0: "validation", 1: "test"}.get(number, "train")


def draw_story(rng: random.Random, split: str, count: int) -> list[Fact]:
  """Draws facts of different people whose combination belongs to `split`."""
  while True:
    # Half of the stories have one relation, so that a value alone does not
    # identify its person.
    relations = [rng.choice(RELATIONS)] * count
    if rng.random() < 0.5:
      relations = [rng.choice(RELATIONS) for _ in range(count)]
    people = rng.sample(PEOPLE, count)
    facts: list[Fact] = []
    for who, relation in zip(people, relations, strict=True):
      taken = [fact.value for fact in facts]
      free = [value for value in relation.values if value not in taken]
      facts.append(Fact(who, relation, rng.choice(free)))
    if split_of(*sorted(fact.statement for fact in facts)) == split:
      return facts


def draw_laws(
  rng: random.Random, split: str
) -> tuple[tuple[str, str], tuple[str, str], int]:
  """Draws two laws, and 1 to ask for the first's effect or 0 for its cause."""
  while True:
    law, other = rng.sample(LAWS, 2)
    part = rng.randrange(2)
    if split_of(law, other, part) == split:
      return law, other, part


def draw_clauses(
  rng: random.Random, split: str, same: bool
) -> tuple[str, tuple[str, str]]:
  """Draws a word and two clauses with it, of the same sense or not."""
  while True:
    word = rng.choice(list(SENSES))
    kinds = rng.sample(list(SENSES[word]), 2)
    if same:
      kinds = [kinds[0]] * 2
    first, second = (rng.choice(SENSES[word][kind]) for kind in kinds)
    if first != second and split_of(*sorted((first, second))) == split:
      return word, (first, second)


@dataclasses.dataclass(frozen=True)
class Meeting:
  """A woman and a man met because one of them, `who`, was in a mood."""

  statement: str
  who: str
  other: str
  mood: str
  pronoun: str


def draw_meeting(rng: random.Random, split: str) -> Meeting:
  """Draws a meeting whose people, verb, mood and `who` belong to `split`."""
  while True:
    who, other = rng.sample((rng.choice(WOMEN), rng.choice(MEN)), 2)
    verb, mood = rng.choice(MEETINGS), rng.choice(MOODS)
    if split_of(who, other, verb, mood) == split:
      break
  first, second = rng.sample((who, other), 2)
  pronoun = "she" if who in WOMEN else "he"
  return Meeting(
    f"{first} {verb} {second} because {pronoun} was {mood}",
    who=who,
    other=other,
    mood=mood,
    pronoun=pronoun,
  )


STATUSES = ("entailment", "contradiction", "neutral")


def draw_claim(rng: random.Random, story: list[Fact], status: str) -> Fact:
  """Draws a claim that a story entails, contradicts, or leaves open.

  A contradiction gives a person of the story a value that is not in it, and a
  neutral claim is about a person who is not in it. So the names and values that
  occur determine the status. (Contradictions with another person's value were
  tried: no model of this size learned them within a million tokens.)
  """
  fact = rng.choice(story)
  if status == "contradiction":
    mentioned = {f.value for f in story}
    values = [v for v in fact.relation.values if v not in mentioned]
    return dataclasses.replace(fact, value=rng.choice(values))
  if status == "neutral":
    present = {f.who for f in story}
    people = [person for person in PEOPLE if person not in present]
    return dataclasses.replace(fact, who=rng.choice(people))
  return fact
