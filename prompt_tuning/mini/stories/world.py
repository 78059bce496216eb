"""The closed world: who there is, what they own, where they go, what they do.

The words are everyday English ones that T5's vocabulary has as one piece.
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

  @property
  def possessive(self) -> str:
    return {"she": "her", "he": "his"}[self.pronoun]


@dataclasses.dataclass(frozen=True)
class Action:
  """What one does with a thing.

  Attributes:
    base: "buy", as in "did she buy it".
    past: "bought".
    participle: "bought", as in "it was bought".
    outcome: What is only so after this action, with {person} and {thing}.
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

# A line each for the six teams of people, and for what is on the six shelves.
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

# Pronoun of a person -> what that person can be to someone.
RELATIONS = {
  "she": ("sister", "mother", "daughter", "aunt", "friend", "neighbor"),
  "he": ("brother", "father", "son", "uncle", "friend", "neighbor"),
}

# What a place can be said to be, and the opposite.
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
  """The split that the combination with this number belongs to.

  Four of six are for training. What an example combines (people with things
  and places, laws with things, a sentence with another) is numbered, so that
  no two splits share a combination.
  """
  return ("validation", "test", "train", "train", "train", "train")[
    number % _PARTS
  ]


@dataclasses.dataclass(frozen=True)
class Cast:
  """The corner of the world that one story is about.

  A team of people meets a shelf: a thing of each kind, and some places and
  towns. Which team and which shelf tells the split, so what a person has, or
  where a person is, in one split is never so in another. Kinships are of the
  team alone, and may be.
  """

  people: tuple[Person, ...]
  things: tuple[str, ...]
  places: tuple[str, ...]
  towns: tuple[str, ...]


def draw_cast(rng: random.Random, split: str) -> Cast:
  """A random corner of the world that belongs to `split`."""
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
  """ "an apple", "a pear"."""
  return f"an {noun}" if noun[0] in "aeiou" else f"a {noun}"


def capitalized(text: str) -> str:
  return text[:1].upper() + text[1:]
