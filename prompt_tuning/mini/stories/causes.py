"""The causes and effects of the closed world, and the motives of its people."""

import dataclasses
import random

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


LAWS = (
  Law(
    topic="fall",
    things=("cup", "plate", "vase", "glass", "bowl", "bottle"),
    before="{person} held the {thing} with wet hands.",
    event="{person} dropped the {thing}.",
    after="The {thing} broke into pieces.",
    before_unnamed="There was soap on {his} fingers.",
    after_unnamed="There were sharp pieces all over the floor.",
  ),
  Law(
    topic="fire",
    things=("bread", "cake", "pie", "pizza", "chicken", "potato"),
    before="{person} forgot about the {thing}.",
    event="The {thing} was in the oven for too long.",
    after="The {thing} burned.",
    before_unnamed="{person} fell asleep in the kitchen.",
    after_unnamed="The kitchen was full of smoke.",
  ),
  Law(
    topic="growth",
    things=("rose", "tree", "flower", "grass", "bush", "plant"),
    before="{person} did not give the {thing} any water.",
    event="The {thing} became dry.",
    after="The {thing} died.",
    before_unnamed="The summer was very hot.",
    after_unnamed="The leaves turned brown.",
  ),
  Law(
    topic="rain",
    things=("coat", "shirt", "dress", "jacket", "sweater", "scarf"),
    before="{person} left the {thing} out in the rain.",
    event="The {thing} got wet.",
    after="{person} hung up the {thing} to dry.",
    before_unnamed="It began to rain.",
    after_unnamed="{person} changed {his} clothes.",
  ),
  Law(
    topic="food",
    things=("dog", "cat", "rabbit", "horse", "goat", "cow"),
    before="Nobody fed the {thing}.",
    event="The {thing} was hungry.",
    after="The {thing} looked for something to eat.",
    before_unnamed="{person} did not buy any food.",
    after_unnamed="{person} brought a bowl of food.",
  ),
  Law(
    topic="travel",
    things=("car", "truck", "van", "bus", "boat", "motorcycle"),
    before="{person} did not fill up the {thing}.",
    event="The {thing} ran out of gas.",
    after="The {thing} stopped on the way.",
    before_unnamed="There was no fuel left.",
    after_unnamed="{person} had to walk home.",
  ),
  Law(
    topic="music",
    things=("guitar", "piano", "violin", "drum", "flute", "trumpet"),
    before="{person} practiced the {thing} every day.",
    event="{person} played the {thing} very well.",
    after="People loved to hear the {thing}.",
    before_unnamed="{person} had taken many music lessons.",
    after_unnamed="The audience clapped.",
  ),
  Law(
    topic="fall",
    things=("chair", "table", "desk", "sofa", "bed", "bench"),
    before="One leg of the {thing} was weak.",
    event="The {thing} broke under {person}.",
    after="{person} bought a new {thing}.",
    before_unnamed="The old wood was weak.",
    after_unnamed="{person} fell to the floor.",
  ),
  Law(
    topic="gift",
    things=("doll", "ball", "puzzle", "robot", "balloon", "kite"),
    before="The child wished for the {thing}.",
    event="{person} gave the child the {thing}.",
    after="The child played with the {thing}.",
    before_unnamed="It was a birthday party.",
    after_unnamed="The little girl smiled and said thank you.",
  ),
  Law(
    topic="door",
    things=("door", "gate", "house", "office", "room", "safe"),
    before="{person} lost the key to the {thing}.",
    event="{person} could not open the {thing}.",
    after="{person} broke the lock of the {thing}.",
    before_unnamed="The key was lost.",
    after_unnamed="{person} called someone to change the lock.",
  ),
  Law(
    topic="sickness",
    things=("soup", "fish", "meat", "egg", "cheese", "milk"),
    before="The {thing} had been in the sun all day.",
    event="{person} ate bad {thing}.",
    after="{person} never touched {thing} again.",
    before_unnamed="The fridge was broken.",
    after_unnamed="{person} had a stomach ache.",
  ),
  Law(
    topic="crime",
    things=("wallet", "phone", "watch", "bag", "computer", "camera"),
    before="{person} left the {thing} on the train.",
    event="A thief took the {thing}.",
    after="{person} had to get a new {thing}.",
    before_unnamed="Nobody was watching.",
    after_unnamed="{person} called the police.",
  ),
  Law(
    topic="power",
    things=("radio", "clock", "lamp", "television", "heater", "printer"),
    before="{person} spilled coffee on the {thing}.",
    event="The {thing} did not work.",
    after="{person} took the {thing} to a repair shop.",
    before_unnamed="The power went out.",
    after_unnamed="{person} changed the battery.",
  ),
  Law(
    topic="school",
    things=("math", "history", "English", "science", "art", "biology"),
    before="{person} studied {thing} every night.",
    event="{person} passed the {thing} exam.",
    after="The {thing} teacher was proud.",
    before_unnamed="{person} spent the week with {his} books.",
    after_unnamed="{person} got a good grade.",
  ),
  Law(
    topic="fire",
    things=("barn", "hotel", "factory", "library", "theater", "cabin"),
    before="Lightning hit the {thing}.",
    event="The {thing} was on fire.",
    after="The {thing} burned down.",
    before_unnamed="Someone had played with matches.",
    after_unnamed="Firefighters came with water.",
  ),
  Law(
    topic="sport",
    things=("soccer", "tennis", "basketball", "football", "golf", "hockey"),
    before="{person} trained hard for the {thing} game.",
    event="{person} won the {thing} game.",
    after="{person} became a {thing} star.",
    before_unnamed="{person} was a very good athlete.",
    after_unnamed="{person} got a gold medal.",
  ),
  Law(
    topic="winter",
    things=("road", "bridge", "street", "path", "hill", "highway"),
    before="Snow fell on the {thing}.",
    event="There was ice on the {thing}.",
    after="Salt was put on the {thing}.",
    before_unnamed="It was a very cold night.",
    after_unnamed="Drivers had to be careful.",
  ),
  Law(
    topic="fun",
    things=("movie", "show", "book", "play", "joke", "story"),
    before="{person} heard that the {thing} was good.",
    event="{person} found the {thing} very funny.",
    after="{person} told friends about the {thing}.",
    before_unnamed="A famous comedian was the author.",
    after_unnamed="{person} laughed out loud.",
  ),
  Law(
    topic="sickness",
    things=("fever", "cold", "flu", "cough", "headache", "infection"),
    before="{person} caught the {thing} from a friend.",
    event="{person} had a bad {thing}.",
    after="{person} took medicine for the {thing}.",
    before_unnamed="Many children at the school were ill.",
    after_unnamed="{person} went to see a doctor.",
  ),
  Law(
    topic="rain",
    things=("field", "garden", "village", "cellar", "valley", "farm"),
    before="The river flowed into the {thing}.",
    event="The {thing} was under water.",
    after="People left the {thing} in boats.",
    before_unnamed="There was a terrible storm.",
    after_unnamed="Everyone went to higher ground.",
  ),
)


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


MOTIVES = (
  Motive("{a} asked {b} for help", "could not do it alone", "knew what to do"),
  Motive("{a} thanked {b}", "was grateful", "had been so kind"),
  Motive("{a} paid {b}", "owned the house", "had cleaned the house"),
  Motive("{a} hired {b}", "needed a worker", "needed a job"),
  Motive("{a} visited {b}", "missed an old friend", "was very ill"),
  Motive("{a} beat {b} in the race", "was very fast", "was very slow"),
  Motive("{a} carried {b} home", "was strong", "could not walk"),
  Motive("{a} lent {b} some money", "was rich", "was poor"),
  Motive("{a} fed {b}", "was a good cook", "was hungry"),
  Motive("{a} taught {b}", "was a teacher", "wanted to learn"),
  Motive("{a} arrested {b}", "was a police officer", "was a thief"),
  Motive("{a} treated {b}", "was a doctor", "had a fever"),
)
