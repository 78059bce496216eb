"""Facts of the world, and sentences that state, claim and question them."""

from collections.abc import Mapping, Sequence
import dataclasses
import random
from typing import Any

from prompt_tuning.mini.stories import world


@dataclasses.dataclass(frozen=True)
class Deed:
  """An action of a person with a thing, at a place on a day."""

  person: world.Person
  action: world.Action
  thing: str
  place: str
  day: str
  kind = "deed"

  def words(self) -> dict[str, str]:
    """Returns the words for the blanks of a sentence about this deed."""
    a_thing = world.with_article(self.thing)
    words = {
      "person": self.person.name,
      "he": self.person.pronoun,
      "thing": self.thing,
      "a_thing": a_thing,
      "A_thing": world.capitalized(a_thing),
      "kind": world.KIND_OF[self.thing],
      "place": self.place,
      "day": self.day,
    }
    outcome = self.action["outcome"].format(**words)
    return {**self.action, **words, "outcome": outcome}


@dataclasses.dataclass(frozen=True)
class Kinship:
  """A relation between two people, such as sisterhood."""

  person: world.Person
  relation: str
  other: world.Person
  kind = "kinship"

  def words(self) -> dict[str, str]:
    """Returns the words for the blanks of a sentence about this relation."""
    return {
      "person": self.person.name,
      "relation": self.relation,
      "other": self.other.name,
    }


Fact = Deed | Kinship

SENTENCES = world.table("sentences")


def _claims(kind: str) -> dict[str, list[str]]:
  """Returns the claims of each level."""
  claims = SENTENCES[kind]
  return {**claims, "mention": claims["binding"] + claims["kinship"]}


STATEMENTS, QUESTIONS = _claims("statements"), _claims("questions")


def _values(cast: world.Cast) -> dict[str, Sequence[Any]]:
  """Returns the possible values of each field of a deed."""
  return {
    "person": cast.people,
    "action": world.ACTIONS,
    "thing": cast.things,
    "place": cast.places,
    "day": world.DAYS,
  }


def draw_deeds(rng: random.Random, cast: world.Cast) -> list[Deed]:
  """Draws two deeds of the cast without a common person, thing, and so on."""
  values = (rng.sample(x, 2) for x in _values(cast).values())
  return [Deed(*deed) for deed in zip(*values, strict=True)]


def tell(rng: random.Random, facts: Sequence[Fact]) -> str:
  """Writes a story: a sentence for each fact, in random order."""
  sentences = [
    rng.choice(SENTENCES["stories"][fact.kind]).format(**fact.words())
    for fact in facts
  ]
  return " ".join(rng.sample(sentences, len(sentences)))


def another(
  rng: random.Random, cast: world.Cast, facts: Sequence[Fact], field: str
) -> Any:
  """Draws a value for a field of the first fact that no fact has."""
  relations = world.RELATIONS[facts[0].person.pronoun]
  values = {**_values(cast), "relation": relations}[field]
  taken = [getattr(fact, field, None) for fact in facts]
  return rng.choice([value for value in values if value not in taken])


def draw_contrast(
  rng: random.Random,
  split: str,
  level: str,
  claims: Mapping[str, Sequence[str]],
) -> tuple[str, str, str]:
  """Draws a claim with a story where it is true and one where it is false.

  Args:
    split: The split of the stories.
    level: "mention", where the false story lacks a thing, place, person, day or
      relation of the claim; "kind" and "outcome", where the claim calls a thing
      by its kind or states an action's outcome; or "binding", where the false
      story mentions everything in the claim, but not together.
    claims: STATEMENTS or QUESTIONS.

  Returns:
    The claim, the story where it is true, and the story where it is false.
  """
  cast = world.draw_cast(rng, split)
  claim = rng.choice(claims[level])
  first, second = draw_deeds(rng, cast)
  if "{relation}" in claim:
    person, other = rng.sample(cast.people, 2)
    relation = rng.choice(world.RELATIONS[person.pronoun])
    first = Kinship(person, relation, other)
    field = "relation"
  elif level in ("kind", "outcome"):
    field = {"kind": "thing", "outcome": "action"}[level]
  else:
    named = ("person", "thing", "place", "day")
    field = rng.choice([name for name in named if f"{name}}}" in claim])

  if level == "binding":
    other = getattr(second, field)
    false_second = dataclasses.replace(second, **{field: getattr(first, field)})
  else:
    other = another(rng, cast, (first, second), field)
    false_second = second
  false_first = dataclasses.replace(first, **{field: other})
  return (
    claim.format(**first.words()),
    tell(rng, (first, second)),
    tell(rng, (false_first, false_second)),
  )
