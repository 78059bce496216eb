"""The ladder's world: its people, relations, laws and words.

It is much smaller than the world of `mini.stories`, because models with some
hundred thousand parameters have to learn all of it within minutes: twelve
people, three relations with six values each, twelve laws of cause and effect,
and six words with two senses. Everything is one short English clause.
"""

from collections.abc import Hashable, Iterable, Sequence
import dataclasses
import pathlib
import random
import tomllib
from typing import Any
import zlib

from prompt_tuning.mini.stories import world

# The type of the world's tables, which world.toml describes.
TABLES = tomllib.loads(
  pathlib.Path(__file__).with_name("world.toml").read_text()
)
WOMEN: list[str] = TABLES["women"]
MEN: list[str] = TABLES["men"]
PEOPLE = [*WOMEN, *MEN]
# A relation between a person and a value.
Relation = dict[str, Any]


@dataclasses.dataclass(frozen=True)
class Domain:
  """The stories of a domain.

  Attributes:
    people: Names.
    weights: Relative frequencies of a relation's values, if not equal.
    facts: The number of facts in a story.
    sentence: The template of a fact in a story.
  """

  people: Sequence[str] = tuple(PEOPLE)
  weights: Sequence[int] | None = None
  facts: int = 2
  sentence: str = "{statement}"


# The whole world, and parts of it, by name.
EVERYWHERE = Domain()
DOMAINS = {k: Domain(**x) for k, x in TABLES["domains"].items()}
RELATIONS: list[Relation] = TABLES["relations"]
# A cause and its effect.
Law = tuple[str, str]
LAWS: tuple[Law, ...] = tuple(
  (law["cause"], law["effect"]) for law in TABLES["laws"]
)
# Word -> the kind of each of its two senses -> clauses that fit it.
SENSES: dict[str, dict[str, list[str]]] = TABLES["senses"]


@dataclasses.dataclass(frozen=True)
class Fact:
  """A relation that holds for a person."""

  who: str
  relation: Relation
  value: str

  def say(self, sentence: str) -> str:
    """Returns one of the relation's sentences with its blanks filled."""
    return self.relation[sentence].format(who=self.who, value=self.value)

  @property
  def statement(self) -> str:
    return self.say("statement")

  def words(self) -> dict[str, str]:
    """Returns the words and sentences to fill into other sentences."""
    said = {x: self.say(x) for x in self.relation if x != "values"}
    return {**said, "who": self.who, "value": self.value}


def tell(story: Iterable[Fact], domain: Domain = EVERYWHERE) -> str:
  return " ".join(f"{domain.sentence} .".format(**x.words()) for x in story)


def split_of(*combination: Hashable) -> str:
  """Returns the split of a combination of facts, laws or clauses.

  Four of six combinations are for pretraining and training. Their stories
  contain no combination for validation or test.
  """
  return world.split_of(zlib.crc32(repr(combination).encode()))


def draw_story(
  rng: random.Random, split: str, count: int, domain: Domain = EVERYWHERE
) -> list[Fact]:
  """Draws facts of different people whose combination belongs to `split`."""
  while True:
    # Half of the stories have one relation, so that a value alone does not
    # identify its person.
    relations = [rng.choice(RELATIONS)] * count
    if rng.random() < 0.5:
      relations = [rng.choice(RELATIONS) for _ in range(count)]
    people = rng.sample(domain.people, count)
    facts: list[Fact] = []
    for who, relation in zip(people, relations, strict=True):
      taken = [fact.value for fact in facts]
      free = [value for value in relation["values"] if value not in taken]
      if domain.weights is None:
        facts.append(Fact(who, relation, rng.choice(free)))
      else:
        by_value = dict(zip(relation["values"], domain.weights, strict=True))
        (value,) = rng.choices(free, [by_value[x] for x in free])
        facts.append(Fact(who, relation, value))
    if split_of(*sorted(fact.statement for fact in facts)) == split:
      return facts


def draw_laws(rng: random.Random, split: str) -> tuple[Law, Law, int]:
  """Draws two laws, and 1 to ask for the first's effect or 0 for its cause."""
  while True:
    law, other = rng.sample(LAWS, 2)
    part = rng.randrange(2)
    if split_of(law, other, part) == split:
      return law, other, part


def draw_clauses(
  rng: random.Random, split: str, same: bool
) -> tuple[str, tuple[str, str]]:
  """Draws a word, and two clauses with it in the same or different senses."""
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
    verb, mood = (rng.choice(x) for x in TABLES["meetings"].values())
    if split_of(who, other, verb, mood) == split:
      break
  first, second = rng.sample((who, other), 2)
  pronoun = "she" if who in WOMEN else "he"
  statement = f"{first} {verb} {second} because {pronoun} was {mood}"
  return Meeting(statement, who, other, mood, pronoun)


STATUSES = ("entailment", "contradiction", "neutral")


def draw_claim(
  rng: random.Random,
  story: list[Fact],
  status: str,
  domain: Domain = EVERYWHERE,
) -> Fact:
  """Draws a claim that a story entails, contradicts, or leaves open.

  A contradiction gives a person of the story a value that the story lacks, and
  a neutral claim is about a person whom it lacks. So the names and values that
  occur determine the status. (Contradictions with another person's value were
  tried: no model of this size learned them within a million tokens.)
  """
  fact = rng.choice(story)
  if status == "contradiction":
    mentioned = {f.value for f in story}
    values = [v for v in fact.relation["values"] if v not in mentioned]
    return dataclasses.replace(fact, value=rng.choice(values))
  if status == "neutral":
    present = {f.who for f in story}
    people = [person for person in domain.people if person not in present]
    return dataclasses.replace(fact, who=rng.choice(people))
  return fact
