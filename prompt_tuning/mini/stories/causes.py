"""The causes and effects of the closed world, and the motives of its people."""

import dataclasses
import pathlib
import random
import tomllib

from prompt_tuning.mini.stories import world


@dataclasses.dataclass(frozen=True)
class Law:
  """A chain of three events: a cause, the event, and its effect.

  In the sentences {thing} is one of `things`, {person} and {his} the person.

  Attributes:
    topic: Laws of one topic could explain each other's events.
    things: The six things that the law holds for.
    before: The cause, naming the thing.
    event: What happened, naming the thing.
    after: The effect, naming the thing.
    before_unnamed: The cause in words that are not in the event.
    after_unnamed: The effect in words that are not in the event.
  """

  topic: str
  things: tuple[str, ...]
  before: str
  event: str
  after: str
  before_unnamed: str
  after_unnamed: str


@dataclasses.dataclass(frozen=True)
class Motive:
  """A deed of one person to another, with a reason that fits only one of them.

  Attributes:
    deed: The deed of {a} to {b}.
    of_a: A reason of {a}, such as "needed help".
    of_b: A reason of {b}.
  """

  deed: str
  of_a: str
  of_b: str


_TABLES = tomllib.loads(
  pathlib.Path(__file__).with_name("causes.toml").read_text()
)
LAWS = tuple(
  Law(**{**law, "things": tuple(law["things"])}) for law in _TABLES["laws"]
)
MOTIVES = tuple(Motive(**motive) for motive in _TABLES["motives"])


def draw_laws(
  rng: random.Random, split: str
) -> tuple[tuple[Law, str], tuple[Law, str]]:
  """Draws two laws of different topics, each with one thing it holds for."""
  cases = [
    (law, thing)
    for number, law in enumerate(LAWS)
    for position, thing in enumerate(law.things)
    if world.split_of(number + position) == split
  ]
  first = rng.choice(cases)
  second = rng.choice([c for c in cases if c[0].topic != first[0].topic])
  return first, second
