"""Tasks that need to know the world: causes, senses of words, pronouns.

Each function makes a group of examples of its task, without "idx". The group's
examples share their words but not their label.
"""

import random

from prompt_tuning.mini.stories import causes, senses, world


def copa(rng: random.Random, split: str, level: str) -> list[world.Features]:
  """Asks which of two choices is the cause, or the effect, of the premise.

  In 50% of the examples ("mention") the right choice names the premise's thing
  and the wrong one another. In 30% ("world") neither does: only what usually
  happens tells. In 20% ("direction") one choice is the cause and the other
  the effect. Half of the labels are choice1; the same choices come with two
  premises or, for "direction", with both questions.
  """
  (law, thing), (other_law, other_thing) = causes.draw_laws(rng, split)
  person = rng.choice(world.draw_cast(rng, split).people)
  question = rng.choice(("cause", "effect"))

  def say(law: causes.Law, part: str, thing: str) -> str:
    return getattr(law, part).format(
      thing=thing, person=person.name, his=person.possessive
    )

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

  Twenty words with two clearly different senses each. In 70% of the examples
  ("overlap") two sentences of the same sense also share another word, which
  sentences of two senses never do. In 30% ("topic") no two sentences do. Half
  of the labels are True; each word is asked for with both labels.
  """
  people = world.draw_cast(rng, split).people
  word = rng.choice(list(senses.SENSES))
  examples = []
  for label, kind in enumerate(("different", level)):
    example = {"word": word, "label": label}
    clauses = rng.choice(senses.pairs(word, kind, split))
    names = [person.name for person in rng.sample(people, 2)]
    for n, (clause, name) in enumerate(
      zip(rng.sample(clauses, 2), names, strict=True), start=1
    ):
      opening = rng.choice(("", f"On {rng.choice(world.DAYS)}, "))
      sentence = f"{opening}{name} {clause}."
      start = sentence.index(f" {word}") + 1
      example |= {
        f"sentence{n}": sentence,
        f"start{n}": start,
        f"end{n}": start + len(word),
      }
    examples.append(example)
  return examples


_OPENINGS = {
  "gender": (
    "{a} and {b} left the {place} early because",
    "{a} talked to {b} at the {place} because",
    "{a} called {b} from the {place} because",
  ),
  "kind": (
    "At the {place}, {a} put down the {thing} because",
    "{a} left the {thing} at the {place} because",
    "{a} sold the {thing} at the {place} because",
  ),
}
_REASONS_OF_PEOPLE: tuple[str, ...] = (
  "was tired",
  "was hungry",
  "had a headache",
  "felt lonely",
  "wanted to sleep",
  "had no friends",
)
_REASONS_OF_THINGS = (
  "was too heavy",
  "was broken",
  "was made of plastic",
  "was covered in paint",
)


def wsc(rng: random.Random, split: str, level: str) -> list[world.Features]:
  """Asks for the referent of the marked pronoun.

  In 40% of the examples ("gender") a sentence about a woman and a man has both
  "she" and "he", one of them marked. In 30% ("kind") it has "it" and a person's
  pronoun. In 30% ("motive") two women or two men occur and only the reason
  identifies the referent: Anna paid Mary because she had cleaned the house.
  Half of the labels are True; the task's train split leaves the others out.
  The sentences come in pairs of different referents, one with the right noun
  phrase and one with the other's.
  """
  cast = world.draw_cast(rng, split)
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
    motive = rng.choice(causes.MOTIVES)
    opening = f"At the {{place}}, {motive.deed} because"
    reasons = [motive.of_a, motive.of_b]
  else:
    opening = rng.choice(_OPENINGS[level])
    reasons = rng.sample(_REASONS_OF_PEOPLE, 2)
  if level == "kind":
    reasons[1] = rng.choice(_REASONS_OF_THINGS)
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
    examples.append(
      _wsc_example(
        f"{opening} {' and '.join(clauses)}.",
        noun_phrase=referents[marked if marked == right else 1 - marked],
        label=int(marked == right),
      )
    )
  return examples


def _wsc_example(
  marked_text: str, noun_phrase: str, label: int
) -> world.Features:
  """Makes an example from a text with stars around its pronoun."""
  before, pronoun, after = marked_text.split("*")
  text = before + pronoun + after
  return {
    "text": text,
    "span1_text": noun_phrase,
    "span1_index": text[: text.index(noun_phrase)].count(" "),
    "span2_text": pronoun,
    "span2_index": before.count(" "),
    "label": label,
  }
