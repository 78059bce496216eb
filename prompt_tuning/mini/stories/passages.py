"""Tasks about a passage: its content, its consequences, its people.

Each function makes a group of examples of its task, without "idx". The group's
examples share words or the question, but not their label.
"""

from collections.abc import Sequence
import dataclasses
import random

from prompt_tuning.mini.stories import facts, world

QUESTIONS_PER_PARAGRAPH = 2
ANSWERS_PER_QUESTION = 5


def boolq(rng: random.Random, split: str, level: str) -> list[world.Features]:
  """Asks whether an event happened in the two-sentence passage.

  In 70% of the examples ("mention") a false question asks for a thing, place,
  person, day or relation that is not in the passage. In 10% ("kind") it asks
  for a thing by its kind: was it an animal? In 20% ("binding") everything is in
  the passage, but with another person. Half of the answers are True; each
  question is asked about one passage where it is true and one where it is not.
  """
  claim, true, false = facts.draw_contrast(rng, split, level, facts.QUESTIONS)
  return [
    {"passage": story, "question": claim, "label": label}
    for label, story in enumerate((false, true))
  ]


def rte(rng: random.Random, split: str, level: str) -> list[world.Features]:
  """Asks whether a hypothesis follows from the two sentences of the premise.

  In 70% of the examples ("mention") a false hypothesis names a thing, place,
  person, day or relation that is not in the premise. In 10% ("outcome") it
  states the outcome of an action other than the premise's: a buyer paid for the
  thing. In 20% ("binding") everything is in the premise, but with another
  person. Half of the labels are entailment; each hypothesis follows from one of
  its premises and not from the other.
  """
  claim, *stories = facts.draw_contrast(rng, split, level, facts.STATEMENTS)
  return [
    {"premise": story, "hypothesis": claim, "label": label}
    for label, story in enumerate(stories)
  ]


def cb(rng: random.Random, split: str, level: str) -> list[world.Features]:
  """Asks whether a premise commits its speaker to a claim, or its opposite.

  In 50% of the examples ("state") the premise says the same of the hypothesis's
  place (entailment), says the opposite (contradiction), or is about other
  places (neutral). In 30% ("denial") it states one deed and denies another, one
  of which is the hypothesis's unless it is neutral. In 20% ("attitude") people
  know it, wrongly believe it, or hope for it. Labels are equally frequent; each
  hypothesis has one premise for every label.
  """
  cast = world.draw_cast(rng, split)
  deeds = facts.draw_deeds(rng, cast)
  speaker = facts.another(rng, cast, deeds, "person")
  if level == "state":
    hypothesis, premises = _cb_state(rng, cast)
    frame = rng.choice(facts.SENTENCES["cb"]["speech"])
    premises = [
      frame.format(person=speaker.name, said=said) for said in premises
    ]
  elif level == "denial":
    hypothesis, premises = _cb_denial(rng, cast, deeds)
  else:
    hypothesis, premises = _cb_attitude(rng, speaker, deeds)
  return [
    {
      "premise": world.capitalized(premise) + ".",
      "hypothesis": hypothesis,
      "label": label,
    }
    for label, premise in enumerate(premises)
  ]


# A hypothesis, and a premise for each label.
_Case = tuple[str, list[str]]


def _cb_state(rng: random.Random, cast: world.Cast) -> _Case:
  place, second_place, absent = rng.sample(cast.places, 3)
  (quality, opposite), second_pair = rng.sample(world.OPPOSITES, 2)
  if rng.random() < 0.5:
    quality, opposite = opposite, quality
  hypothesis = f"the {place} was {quality}"
  claims = (
    hypothesis,
    f"the {place} was {opposite}",
    f"the {absent} was {rng.choice((quality, opposite))}",
  )
  second = f"the {second_place} was {rng.choice(second_pair)}"
  return hypothesis, [
    " and ".join(rng.sample((claim, second), 2)) for claim in claims
  ]


def _cb_denial(
  rng: random.Random, cast: world.Cast, deeds: Sequence[facts.Deed]
) -> _Case:
  first, second = deeds
  stated = "{person} {past} {a_thing}"
  denied = rng.choice(
    ("{person} did not {base} {a_thing}", "{person} never {past} {a_thing}")
  )
  other = dataclasses.replace(
    first, thing=facts.another(rng, cast, deeds, "thing")
  )
  neutral_forms = rng.sample((stated, denied), 2)
  premises = [
    " and ".join(
      rng.sample([form.format(**deed.words()) for form, deed in clauses], 2)
    )
    for clauses in (
      ((stated, first), (denied, second)),
      ((denied, first), (stated, second)),
      tuple(zip(neutral_forms, (other, second), strict=True)),
    )
  ]
  return stated.format(**first.words()), premises


def _cb_attitude(
  rng: random.Random, speaker: world.Person, deeds: Sequence[facts.Deed]
) -> _Case:
  clause, second_clause = (
    "{person} {past} {a_thing}".format(**deed.words()) for deed in deeds
  )
  premises = []
  every = facts.SENTENCES["cb"]["attitudes"]
  for attitudes in every:
    others = [x for x in every if x is not attitudes]
    thoughts = (
      f"{rng.choice(attitudes)} {clause}",
      f"{rng.choice(rng.choice(others))} {second_clause}",
    )
    premises.append(f"{speaker.name} " + " and ".join(rng.sample(thoughts, 2)))
  return clause, premises


def multirc(rng: random.Random, split: str, level: str) -> list[world.Features]:
  """Asks whether an answer to a question about the paragraph is right.

  Each paragraph has two questions, and each question five answers, of which two
  or three are right. In 80% of the examples ("mention") the wrong answers are
  not in the paragraph. In 20% ("binding") they are the right answers to the
  other question. Half of the labels are True.
  """
  cast = world.draw_cast(rng, split)
  first, second = facts.draw_deeds(rng, cast)
  right_counts = rng.sample((2, 3), 2)
  things = [world.with_article(thing) for thing in rng.sample(cast.things, 5)]
  lists = things[: right_counts[0]], things[right_counts[0] :]
  questions = [("What did {person} {base}?", first, lists[0], lists[1])]
  stated = "{{person}} {{past}} {} on {{day}}."
  sentences = [(stated.format(_enumerate(lists[0])), first)]
  if level == "binding":
    questions += [("What did {person} {base}?", second, lists[1], lists[0])]
    sentences += [(stated.format(_enumerate(lists[1])), second)]
  else:
    people = [p.name for p in cast.people if p is not first.person]
    rng.shuffle(people)
    visitors, others = people[: right_counts[1]], people[right_counts[1] :]
    questions += [("Who went to the {place}?", second, visitors, others)]
    went = f"{_enumerate(visitors)} went to the {{place}}."
    sentences += [(went, second)]
  paragraph = " ".join(
    world.capitalized(text.format(**deed.words()))
    for text, deed in rng.sample(sentences, 2)
  )
  return [
    {
      "paragraph": paragraph,
      "question": question.format(**deed.words()),
      "answer": answer,
      "label": int(answer in right),
    }
    for question, deed, right, wrong in questions
    for answer in rng.sample([*right, *wrong], 5)
  ]


def _enumerate(nouns: list[str]) -> str:
  return ", ".join(nouns[:-1]) + " and " + nouns[-1]


def record(rng: random.Random, split: str, level: str) -> list[world.Features]:
  """Asks which of three names in the passage is the query's @placeholder.

  In 50% of the examples ("kind") the query has two of the names and lacks the
  third, a person or a town. In 20% ("gender") "she" and "he" in the query
  decide between a woman and a man. In 30% ("binding") it states the deed of one
  of two people. The answers are spread evenly over the names of the world; each
  query occurs twice, with different names left out.
  """
  cast = world.draw_cast(rng, split)
  first, second = facts.draw_deeds(rng, cast)
  town = rng.choice(cast.towns)
  if level == "gender":
    others = [p for p in cast.people if p.pronoun != first.person.pronoun]
    second = dataclasses.replace(second, person=rng.choice(others))
  passage = (
    f"{facts.tell(rng, (first, second))} They both live in {town}."
    f"\n@highlight\nIt was a busy week in {town}"
  )
  if level == "kind":
    words = {"a": first.person.name, "b": second.person.name, "town": town}
    cases = [(words, first.person.name), (words, town)]
  else:
    cases = [
      (deed.words() | {"other_he": other.person.pronoun}, deed.person.name)
      for deed, other in ((first, second), (second, first))
    ]
  query = rng.choice(facts.SENTENCES["record"][level])
  return [
    {
      "passage": passage,
      "query": query.format(**words).replace(answer, "@placeholder"),
      "entities": sorted((first.person.name, second.person.name, town)),
      "answers": [answer],
    }
    for words, answer in cases
  ]
