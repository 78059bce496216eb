"""The closed world of `world.toml`: its people, things, places and actions."""

import dataclasses
import itertools
import pathlib
import random
import tomllib
from typing import Any

# An example: TFDS's features of its task.
Features = dict[str, Any]
# An action, as `world.toml` describes it: see `table`.
Action = dict[str, str]


@dataclasses.dataclass(frozen=True)
class Person:
  name: str
  pronoun: str


def table(name: str) -> dict[str, Any]:
  """Reads one of the tables beside this module."""
  path = pathlib.Path(__file__).with_name(f"{name}.toml")
  return tomllib.loads(path.read_text())


_WORLD = table("world")
ACTIONS: list[Action] = _WORLD["actions"]
DAYS: list[str] = _WORLD["days"]
RELATIONS: dict[str, list[str]] = _WORLD["relations"]
OPPOSITES: list[list[str]] = _WORLD["opposites"]
KIND_OF: dict[str, str] = {
  thing: kind for kind, things in _WORLD["things"].items() for thing in things
}
_PARTS = 6


def split_of(number: int) -> str:
  """Returns the split of the combination with this number.

  Four of six are for training. The combinations in examples (people with things
  and places, laws with things, pairs of sentences) are numbered, so that no two
  splits share one.
  """
  return {0: "validation", 1: "test"}.get(number % _PARTS, "train")


@dataclasses.dataclass(frozen=True)
class Cast:
  """The people, things and places of one story.

  A team of people meets a shelf: a thing of each kind, and some places and
  towns. Team and shelf determine the split, so a fact about a person's things
  or place is never in two splits. Kinships depend only on the team, so they may
  be in two.
  """

  people: list[Person]
  things: list[str]
  places: list[str]
  towns: list[str]


def draw_cast(rng: random.Random, split: str) -> Cast:
  """Draws a random cast that belongs to `split`."""
  pairs = itertools.product(range(_PARTS), repeat=2)
  team, shelf = rng.choice([x for x in pairs if split_of(sum(x)) == split])
  sides = (("women", "she"), ("men", "he"))
  return Cast(
    people=[Person(x, he) for names, he in sides for x in _WORLD[names][team]],
    things=[things[shelf] for things in _WORLD["things"].values()],
    places=_WORLD["places"][shelf],
    towns=_WORLD["towns"][shelf],
  )


def with_article(noun: str) -> str:
  """Returns "an apple", "a pear"."""
  return f"an {noun}" if noun[0] in "aeiou" else f"a {noun}"


def capitalized(text: str) -> str:
  return text[:1].upper() + text[1:]
