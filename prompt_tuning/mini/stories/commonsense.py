"""Tasks that need knowledge of the world: causes, senses of words, pronouns.

Each function makes a group of examples of its task, without "idx". The group's
examples share their words but not their label.
"""

from collections.abc import Sequence
import itertools
import random
from typing import Any

from prompt_tuning.mini.stories import facts, world

_CAUSES = world.table("causes")
_POSSESSIVES = {"she": "her", "he": "his"}
# Word -> five sentences for each of its two senses.
SENSES: dict[str, list[list[str]]] = {
  word: [sense["sentences"] for sense in senses]
  for word, senses in world.table("senses").items()
}
# The pairs of the first four sentences. The first is for validation and the
# second for testing, so that every sentence is equally frequent in the train
# split.
_OVERLAPPING = ((0, 1), (2, 3), (0, 2), (0, 3), (1, 2), (1, 3))


def copa(rng: random.Random, split: str, level: str) -> list[world.Features]:
  """Asks which of two choices is the cause, or the effect, of the premise.

  In 50% of the examples ("mention") the right choice names the premise's thing
  and the wrong choice another. In 30% ("world") neither does: only knowledge of
  the usual course helps. In 20% ("direction") one choice is the cause and the
  other the effect. Half of the labels are choice1; the same choices come with
  two premises or, for "direction", with both questions.
  """
  # Laws of different topics, each with one thing for which it holds.
  laws = [
    (law, thing)
    for number, law in enumerate(_CAUSES["laws"])
    for position, thing in enumerate(law["things"])
    if world.split_of(number + position) == split
  ]
  law, thing = rng.choice(laws)
  other_law, other_thing = rng.choice(
    [x for x in laws if x[0]["topic"] != law["topic"]]
  )
  person = rng.choice(world.draw_cast(rng, split).people)
  question = rng.choice(("cause", "effect"))

  words = {"person": person.name, "his": _POSSESSIVES[person.pronoun]}

  def say(law: dict[str, Any], part: str, thing: str) -> str:
    return law[part].format(thing=thing, **words)

  if level == "direction":
    choices = [say(law, "before", thing), say(law, "after", thing)]
    cases = [(say(law, "event", thing), q) for q in ("cause", "effect")]
  else:
    part = {"cause": "before", "effect": "after"}[question]
    part += {"mention": "", "world": "_unnamed"}[level]
    choices = [say(law, part, thing), say(other_law, part, other_thing)]
    cases = [
      (say(law, "event", thing), question),
      (say(other_law, "event", other_thing), question),
    ]
  swapped = rng.random() < 0.5
  return [
    {
      "premise": premise,
      "choice1": choices[swapped],
      "choice2": choices[not swapped],
      "question": question,
      "label": right ^ swapped,
    }
    for right, (premise, question) in enumerate(cases)
  ]


def wic(rng: random.Random, split: str, level: str) -> list[world.Features]:
  """Asks whether a word has the same sense in both sentences.

  There are twenty words with two clearly different senses each. In 70% of the
  examples ("overlap") two sentences with the same sense also share another
  word, which sentences with different senses never do. In 30% ("topic") no two
  sentences do. Half of the labels are True; each word occurs with both labels.
  """
  people = world.draw_cast(rng, split).people
  word = rng.choice(list(SENSES))
  examples = []
  for label, kind in enumerate(("different", level)):
    clauses = rng.choice(_pairs(word, kind, split))
    names = [person.name for person in rng.sample(people, 2)]
    sentences = []
    for clause, name in zip(rng.sample(clauses, 2), names, strict=True):
      opening = rng.choice(("", f"On {rng.choice(world.DAYS)}, "))
      sentences.append(f"{opening}{name} {clause}.")
    examples.append(wic_example(word, sentences, label))
  return examples


def _pairs(word: str, level: str, split: str) -> list[tuple[str, str]]:
  """Returns the pairs of sentences with `word` that belong to `split`.

  Args:
    level: "overlap" for the same sense and a second common word, "topic" for
      the same sense without a second word, "different" for two senses.
  """
  senses = SENSES[word]
  pairs = {
    "overlap": [(s[i], s[j]) for s in senses for i, j in _OVERLAPPING],
    "topic": [(clear, sense[4]) for sense in senses for clear in sense[:4]],
    "different": list(itertools.product(*senses)),
  }[level]
  return [x for i, x in enumerate(pairs) if world.split_of(i) == split]


def wic_example(
  word: str, sentences: Sequence[str], label: int
) -> world.Features:
  """Makes an example from two sentences with a word."""
  example: world.Features = {"word": word, "label": label}
  for n, sentence in enumerate(sentences, start=1):
    start = sentence.index(f" {word}") + 1
    example |= {
      f"sentence{n}": sentence,
      f"start{n}": start,
      f"end{n}": start + len(word),
    }
  return example


def wsc(rng: random.Random, split: str, level: str) -> list[world.Features]:
  """Asks for the referent of the marked pronoun.

  In 40% of the examples ("gender") a sentence about a woman and a man has both
  "she" and "he", one of them marked. In 30% ("kind") it has "it" and a person's
  pronoun. In 30% ("motive") two women or two men occur and only the reason
  identifies the referent: Anna paid Mary because she had cleaned the house.
  Half of the labels are True; the task's train split has only these. Sentences
  come in pairs with different referents, one with the right noun phrase and one
  with the other referent's.
  """
  cast, sentences = world.draw_cast(rng, split), facts.SENTENCES["wsc"]
  first = rng.choice(cast.people)
  words = {"a": first.name, "place": rng.choice(cast.places)}
  if level == "kind":
    words["thing"] = rng.choice(cast.things)
    pronouns = [first.pronoun, "it"]
    referents = [first.name, f"the {words['thing']}"]
  else:
    second = rng.choice(
      [
        person
        for person in cast.people
        if person is not first
        and (person.pronoun == first.pronoun) == (level == "motive")
      ]
    )
    words["b"] = second.name
    pronouns = [first.pronoun, second.pronoun]
    referents = [first.name, second.name]

  if level == "motive":
    motive = rng.choice(_CAUSES["motives"])
    opening = f"At the {{place}}, {motive['deed']} because"
    reasons = [motive["of_a"], motive["of_b"]]
  else:
    opening = rng.choice(sentences[level])
    reasons = rng.sample(sentences["people"], 2)
  if level == "kind":
    reasons[1] = rng.choice(sentences["things"])
  opening = opening.format(**words)

  order = rng.sample((0, 1), 2)
  right = rng.choice(order)
  examples = []
  for marked in order:
    clauses = [
      f"*{pronouns[i]}* {reasons[i]}"
      if i == marked
      else f"{pronouns[i]} {reasons[i]}"
      for i in ([marked] if level == "motive" else order)
    ]
    before, pronoun, after = f"{opening} {' and '.join(clauses)}.".split("*")
    text = before + pronoun + after
    noun_phrase = referents[marked if marked == right else 1 - marked]
    examples.append(
      {
        "text": text,
        "span1_text": noun_phrase,
        "span1_index": text[: text.index(noun_phrase)].count(" "),
        "span2_text": pronoun,
        "span2_index": before.count(" "),
        "label": int(marked == right),
      }
    )
  return examples
