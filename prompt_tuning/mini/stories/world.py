"""The closed world: its people, things, places and actions.

All words are common English words that T5's vocabulary has as one piece.
"""

import dataclasses
import random
from typing import Any

# An example: TFDS's features of its task.
Features = dict[str, Any]


@dataclasses.dataclass(frozen=True)
class Person:
  name: str
  pronoun: str


@dataclasses.dataclass(frozen=True)
class Action:
  """An action with a thing.

  Attributes:
    base: "buy", as in "did she buy it".
    past: "bought".
    participle: "bought", as in "it was bought".
    outcome: A fact that only this action implies, with {person} and {thing}.
  """

  base: str
  past: str
  participle: str
  outcome: str


ACTIONS = (
  Action("buy", "bought", "bought", "{person} paid for the {thing}."),
  Action("sell", "sold", "sold", "{person} got money for the {thing}."),
  Action("steal", "stole", "stolen", "{person} was a thief."),
  Action(
    "borrow", "borrowed", "borrowed", "{person} must give the {thing} back."
  ),
  Action("lose", "lost", "lost", "{person} could not find the {thing}."),
  Action("draw", "drew", "drawn", "{person} made a picture of the {thing}."),
  Action("wash", "washed", "washed", "{person} made the {thing} clean."),
  Action("hide", "hid", "hidden", "{person} kept the {thing} secret."),
)

# Kind -> the things of that kind.
THINGS = {
  "a fruit": ("apple", "lemon", "banana", "orange", "cherry", "mango"),
  "a tool": ("drill", "knife", "ladder", "brush", "wrench", "saw"),
  "an animal": ("dog", "cat", "rabbit", "horse", "goat", "cow"),
  "an instrument": ("guitar", "piano", "violin", "drum", "flute", "trumpet"),
  "something to wear": ("coat", "shirt", "dress", "jacket", "scarf", "sweater"),
  "a piece of furniture": ("chair", "table", "desk", "sofa", "bed", "bench"),
  "a toy": ("doll", "ball", "puzzle", "robot", "balloon", "kite"),
  "a vehicle": ("car", "bike", "boat", "truck", "van", "bus"),
}
KIND_OF = {thing: kind for kind, things in THINGS.items() for thing in things}

# A line for each of the six teams of people and the six shelves of things.
WOMEN = (
  ("Anna", "Mary", "Lucy"),
  ("Emma", "Sarah", "Julia"),
  ("Laura", "Alice", "Helen"),
  ("Maria", "Rachel", "Jane"),
  ("Kate", "Linda", "Susan"),
  ("Lisa", "Karen", "Emily"),
)
MEN = (
  ("Tom", "John", "Peter"),
  ("David", "James", "Paul"),
  ("Adam", "Daniel", "Simon"),
  ("Henry", "George", "Jack"),
  ("Frank", "Robert", "Michael"),
  ("William", "Kevin", "Oliver"),
)
PLACES = (
  ("market", "park", "school", "library"),
  ("museum", "station", "harbor", "beach"),
  ("hospital", "bakery", "church", "castle"),
  ("garden", "farm", "hotel", "theater"),
  ("airport", "factory", "bridge", "lake"),
  ("river", "office", "stadium", "gym"),
)
TOWNS = (
  ("London", "Paris"),
  ("Rome", "Berlin"),
  ("Boston", "Dublin"),
  ("Madrid", "Vienna"),
  ("Oslo", "Chicago"),
  ("Sydney", "Toronto"),
)
DAYS = (
  "Monday",
  "Tuesday",
  "Wednesday",
  "Thursday",
  "Friday",
  "Saturday",
  "Sunday",
)

# Pronoun of a person -> the possible relations to another person.
RELATIONS = {
  "she": ("sister", "mother", "daughter", "aunt", "friend", "neighbor"),
  "he": ("brother", "father", "son", "uncle", "friend", "neighbor"),
}

# Qualities of a place, and their opposites.
OPPOSITES = (
  ("quiet", "noisy"),
  ("clean", "dirty"),
  ("warm", "cold"),
  ("bright", "dark"),
  ("old", "new"),
  ("big", "small"),
  ("safe", "dangerous"),
  ("empty", "crowded"),
)

_PARTS = 6


def split_of(number: int) -> str:
  """Returns the split of the combination with this number.

  Four of six are for training. The combinations in examples (people with things
  and places, laws with things, a sentence with another) are numbered, so that
  no two splits share one.
  """
  return ("validation", "test", "train", "train", "train", "train")[
    number % _PARTS
  ]


@dataclasses.dataclass(frozen=True)
class Cast:
  """The people, things and places of one story.

  A team of people meets a shelf: a thing of each kind, and some places and
  towns. Team and shelf determine the split, so a fact about the things or the
  place of a person is never in two splits. Kinships depend on the team alone,
  and may be.
  """

  people: tuple[Person, ...]
  things: tuple[str, ...]
  places: tuple[str, ...]
  towns: tuple[str, ...]


def draw_cast(rng: random.Random, split: str) -> Cast:
  """Draws a random cast that belongs to `split`."""
  team, shelf = rng.choice(
    [
      (team, shelf)
      for team in range(_PARTS)
      for shelf in range(_PARTS)
      if split_of(team + shelf) == split
    ]
  )
  women = (Person(name, "she") for name in WOMEN[team])
  men = (Person(name, "he") for name in MEN[team])
  return Cast(
    people=(*women, *men),
    things=tuple(things[shelf] for things in THINGS.values()),
    places=PLACES[shelf],
    towns=TOWNS[shelf],
  )


def with_article(noun: str) -> str:
  """Returns "an apple", "a pear"."""
  return f"an {noun}" if noun[0] in "aeiou" else f"a {noun}"


def capitalized(text: str) -> str:
  return text[:1].upper() + text[1:]
