"""Words with two senses, and predicates that use each sense.

Four of the five sentences of a sense share a second word (in the comment). If
two sentences share it, comparing words shows that the sense is the same. The
fifth sentence has to be understood.
"""

import itertools

from prompt_tuning.mini.stories import world

Sense = tuple[str, str, str, str, str]

SENSES: dict[str, tuple[Sense, Sense]] = {
  "bank": (
    (  # river
      "sat on the bank of the river",
      "fished from the bank of the river",
      "followed the river along its bank",
      "saw the river rise over the bank",
      "slept in the grass on the bank",
    ),
    (  # money
      "put money in the bank",
      "got money from the bank",
      "asked the bank for more money",
      "kept all the money at the bank",
      "had a loan from the bank",
    ),
  ),
  "bat": (
    (  # cave
      "found a bat in a cave",
      "heard a bat deep in the cave",
      "entered the cave and woke a bat",
      "watched a bat leave its cave",
      "was afraid of a bat with black wings",
    ),
    (  # ball
      "hit the ball with a bat",
      "missed the ball with the bat",
      "bought a bat and a ball",
      "swung the bat at the ball",
      "held the bat in the last game",
    ),
  ),
  "spring": (
    (  # flowers
      "picked flowers in spring",
      "planted flowers last spring",
      "painted the flowers of spring",
      "waited for spring and its flowers",
      "had a birthday in spring",
    ),
    (  # metal
      "pressed the metal spring",
      "replaced the spring with a metal one",
      "made a spring out of metal",
      "needed a metal spring for the machine",
      "fixed the bed with a spring",
    ),
  ),
  "ring": (
    (  # gold
      "wore a gold ring",
      "lost a ring made of gold",
      "bought the ring for its gold",
      "gave the bride a gold ring",
      "put the ring on one finger",
    ),
    (  # fight
      "won a fight in the ring",
      "entered the ring for the fight",
      "left the ring after the fight",
      "watched the fight from beside the ring",
      "boxed with a champion in the ring",
    ),
  ),
  "bark": (
    (  # dog
      "heard the bark of a dog",
      "woke up from the bark of a dog",
      "ran from the dog with the loud bark",
      "called the dog and heard a bark",
      "noticed a bark behind the gate",
    ),
    (  # tree
      "touched the bark of the tree",
      "cut the bark of a tree",
      "tied a rope around the bark of the tree",
      "saw a tree with white bark",
      "made a small roof out of bark",
    ),
  ),
  "key": (
    (  # door
      "opened the door with a key",
      "lost the key to the door",
      "left the key in the door",
      "turned the key and closed the door",
      "carried the key in one pocket",
    ),
    (  # song
      "sang the song in a high key",
      "played the song in a new key",
      "changed the key of the song",
      "wrote a song in a sad key",
      "tuned the violin to the right key",
    ),
  ),
  "nail": (
    (  # hammer
      "hit the nail with a hammer",
      "used a hammer to drive in the nail",
      "picked up a nail and a hammer",
      "missed the nail with the hammer",
      "hung the picture on a nail",
    ),
    (  # finger
      "painted the nail on each finger",
      "broke the nail of one finger",
      "cut a finger and its nail",
      "had a long nail on one finger",
      "bit off a nail in the dark cinema",
    ),
  ),
  "trunk": (
    (  # elephant
      "saw the elephant lift its trunk",
      "touched the trunk of an elephant",
      "drew an elephant with a long trunk",
      "watched the elephant drink with its trunk",
      "got wet at the circus from a trunk",
    ),
    (  # car
      "opened the trunk of the car",
      "put the bags in the trunk of the car",
      "bought a car with a big trunk",
      "filled the car up to the trunk",
      "packed the trunk for the drive",
    ),
  ),
  "match": (
    (  # candle
      "lit a candle with a match",
      "used the last match on the candle",
      "looked for a candle and a match",
      "held the match to the candle",
      "started a fire with one match",
    ),
    (  # tennis
      "won the tennis match",
      "lost a match at the tennis club",
      "played tennis in a long match",
      "watched a tennis match",
      "cheered for the team at the match",
    ),
  ),
  "wave": (
    (  # sea
      "swam into a wave in the sea",
      "watched a wave far out at sea",
      "looked at the sea and saw a wave",
      "was hit by a wave from the sea",
      "rode a wave to the beach",
    ),
    (  # hand
      "gave a wave of the hand",
      "raised one hand in a wave",
      "lifted a hand to return the wave",
      "made a wave with the left hand",
      "said goodbye with a wave",
    ),
  ),
  "palm": (
    (  # tree
      "sat under the palm tree",
      "climbed up a palm like a tree",
      "planted a tree that is a palm",
      "took a leaf from the palm tree",
      "picked a coconut from the palm",
    ),
    (  # hand
      "held a coin in the palm of one hand",
      "opened a hand to show the palm",
      "wrote on the palm of the left hand",
      "had a cut in the palm of the right hand",
      "felt the rain on one palm",
    ),
  ),
  "letter": (
    (  # mail
      "sent a letter by mail",
      "got a letter in the mail",
      "waited for the mail and a letter",
      "put the letter with the other mail",
      "wrote a letter to an old friend",
    ),
    (  # alphabet
      "learned a letter of the alphabet",
      "forgot one letter of the alphabet",
      "knew the alphabet up to the last letter",
      "drew the first letter of the alphabet",
      "spelled the name with one letter too many",
    ),
  ),
  "pitcher": (
    (  # water
      "filled the pitcher with water",
      "carried water in a pitcher",
      "poured water from the pitcher",
      "brought a pitcher of cold water",
      "put a glass beside the pitcher",
    ),
    (  # baseball
      "became the pitcher of a baseball team",
      "met a famous baseball pitcher",
      "loved baseball and admired the pitcher",
      "asked the pitcher about baseball",
      "saw the pitcher throw the ball",
    ),
  ),
  "seal": (
    (  # fish
      "fed a fish to the seal",
      "saw a seal eat fish",
      "watched the seal catch a fish",
      "threw fish at a hungry seal",
      "took a picture of a seal on the ice",
    ),
    (  # envelope
      "broke the seal of the envelope",
      "closed the envelope with a seal",
      "put a red seal on the envelope",
      "got an envelope without a seal",
      "pressed a seal into the hot wax",
    ),
  ),
  "crane": (
    (  # lake
      "saw a crane by the lake",
      "watched a crane fly over the lake",
      "walked to the lake to draw a crane",
      "heard a crane on the lake",
      "found a feather of a crane",
    ),
    (  # steel
      "lifted the steel with a crane",
      "used a crane to move steel",
      "loaded steel onto the crane",
      "painted the steel arm of a crane",
      "drove a crane at the building site",
    ),
  ),
  "mouse": (
    (  # cheese
      "gave cheese to a mouse",
      "saw a mouse steal the cheese",
      "caught the mouse with some cheese",
      "found a mouse in the cheese",
      "heard a mouse run under the floor",
    ),
    (  # computer
      "plugged the mouse into the computer",
      "used the computer without a mouse",
      "bought a mouse for the computer",
      "took the mouse from the computer desk",
      "clicked on the file with the mouse",
    ),
  ),
  "pupil": (
    (  # school
      "taught a pupil at the school",
      "was the best pupil of the school",
      "took a pupil home from school",
      "met a pupil of the old school",
      "gave the pupil a difficult test",
    ),
    (  # eye
      "looked at the pupil of one eye",
      "had an eye with a wide pupil",
      "drew an eye with a black pupil",
      "put a drop on the eye near the pupil",
      "saw in the mirror how the pupil became small",
    ),
  ),
  "fan": (
    (  # hot
      "turned on the fan in the hot room",
      "bought a fan because it was hot",
      "sat near the fan all through the hot day",
      "needed a fan in the hot kitchen",
      "felt the cool air of the fan",
    ),
    (  # singer
      "was a fan of the singer",
      "met a fan of the famous singer",
      "wrote to the singer like a true fan",
      "saw a fan hug the singer",
      "signed a photo for a fan",
    ),
  ),
  "bow": (
    (  # arrow
      "shot an arrow with a bow",
      "made a bow and one arrow",
      "put an arrow to the bow",
      "hunted with bow and arrow",
      "aimed the bow at the target",
    ),
    (  # ribbon
      "tied the ribbon in a bow",
      "fixed a bow of ribbon to the gift",
      "chose a bow of blue ribbon",
      "pulled the bow of the ribbon",
      "wore a pink bow to the party",
    ),
  ),
  "court": (
    (  # judge
      "saw the judge in court",
      "went to court and met the judge",
      "told the judge the truth in court",
      "heard the judge speak at the court",
      "was taken to court for the crime",
    ),
    (  # tennis
      "played tennis on the court",
      "beat a tennis player on the court",
      "ran across the tennis court",
      "built a court to play tennis",
      "hit the ball out of the court",
    ),
  ),
}


# The pairs of the first four sentences. The first is for validation and the
# second for testing, so that every sentence is equally frequent in the train
# split.
_OVERLAPPING = ((0, 1), (2, 3), (0, 2), (0, 3), (1, 2), (1, 3))


def pairs(word: str, level: str, split: str) -> list[tuple[str, str]]:
  """Returns the pairs of sentences with `word` that belong to `split`.

  Args:
    level: "overlap" for the same sense and a second word in both, "topic" for
      the same sense without one, "different" for two senses.
  """
  first, second = SENSES[word]
  pairs = {
    "overlap": [
      (sense[i], sense[j]) for sense in (first, second) for i, j in _OVERLAPPING
    ],
    "topic": [
      (clear, sense[4]) for sense in (first, second) for clear in sense[:4]
    ],
    "different": list(itertools.product(first, second)),
  }[level]
  return [x for i, x in enumerate(pairs) if world.split_of(i) == split]
