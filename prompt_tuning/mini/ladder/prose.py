"""The pretraining text of the ladder's models: prose about their world.

It has stories with questions, answers and statements of truth, and sentences
about causes, senses of words and pronouns. Nothing has the format of a task
("premise: ..."). The words of those formats do occur, in separate sentences,
because a frozen model cannot use a word that it has never seen.

A bar in a document marks the position just before a word that answers
something. `world.toml` has the templates of documents.
"""

from collections.abc import Callable
import dataclasses
import random

from prompt_tuning.mini.ladder import world

CUT = "|"
# Maps a random generator and a split to a document.
Maker = Callable[[random.Random, str], str]
_YES = ("no", "yes")
# A document with fewer words may follow a remark.
_SHORT = 18
_REMARKS = ("the {word} .", "a {word} ,")


def _story(rng: random.Random, split: str) -> list[world.Fact]:
  return world.draw_story(rng, split, 1 if rng.random() < 0.3 else 2)


def _write(rng: random.Random, form: str, **words: object) -> str:
  """Draws a template of a document, and fills in its words."""
  return rng.choice(world.TABLES["prose"][form]).format(**words)


def answer(rng: random.Random, split: str) -> str:
  """Writes a story, and a question whose answer is a person in it."""
  story = _story(rng, split)
  words = rng.choice(story).words()
  rest = words["statement"].removeprefix(f"{words['who']} ")
  return _write(rng, "answer", story=world.tell(story), rest=rest, **words)


def value(rng: random.Random, split: str) -> str:
  """Writes a story, and a question about a value in it or the fact again."""
  story = _story(rng, split)
  fact = rng.choice(story)
  marked = dataclasses.replace(fact, value=f"|{fact.value}").statement
  words = {"story": world.tell(story), "marked": marked}
  return _write(rng, "value", **words, **fact.words())


def truth(rng: random.Random, split: str) -> str:
  """Writes a story, and whether a claim about it is true."""
  story = _story(rng, split)
  is_so = rng.random() < 0.5
  status = "entailment" if is_so else "contradiction"
  claim = world.draw_claim(rng, story, status)
  words = {"story": world.tell(story), "so": is_so, "yes": _YES[is_so]}
  return _write(rng, "truth", **words, **claim.words())


def entailment(rng: random.Random, split: str) -> str:
  """Writes a story, a claim, and how the two are related."""
  story = _story(rng, split)
  status = rng.choice(world.STATUSES)
  claim = world.draw_claim(rng, story, status)
  return f"{world.tell(story)} so {claim.statement} . this is |{status} ."


def cause_and_effect(rng: random.Random, split: str) -> str:
  """Writes a cause and its effect."""
  (cause, effect), _, _ = world.draw_laws(rng, split)
  return _write(rng, "cause_and_effect", cause=cause, effect=effect)


def choice(rng: random.Random, split: str) -> str:
  """Asks which of two ideas is the cause or the effect."""
  law, other, part = world.draw_laws(rng, split)
  ideas = rng.sample((law[part], other[part]), 2)
  ask = (
    f"{law[1 - part]} . {('why', 'what then')[part]} ? "
    f"{ideas[0]} or {ideas[1]} ?"
  )
  number = 1 + ideas.index(law[part])
  return _write(rng, "choice", ask=ask, right=law[part], number=number)


def meaning(rng: random.Random, split: str) -> str:
  """Names the kind of thing that a word means in a sentence."""
  word, (clause, _) = world.draw_clauses(rng, split, same=True)
  kind = next(k for k, fit in world.SENSES[word].items() if clause in fit)
  who = rng.choice(world.PEOPLE)
  return f"{who} {clause} . this {word} is a |{kind} ."


def sense(rng: random.Random, split: str) -> str:
  """Asks whether a word has the same sense in two sentences."""
  same = rng.random() < 0.5
  word, clauses = world.draw_clauses(rng, split, same)
  first, second = (
    f"{who} {clause} ."
    for who, clause in zip(rng.sample(world.PEOPLE, 2), clauses, strict=True)
  )
  words = {"first": first, "second": second, "word": word}
  return _write(rng, "sense", **words, so=same, yes=_YES[same])


def pronoun(rng: random.Random, split: str) -> str:
  """Writes that two people meet, and asks who was in a mood."""
  return _write(rng, "pronoun", **vars(world.draw_meeting(rng, split)))


# The function that makes a document -> its share, in twentieths.
MAKERS: dict[Maker, int] = {
  answer: 2,
  value: 2,
  truth: 5,
  entailment: 3,
  cause_and_effect: 1,
  choice: 2,
  meaning: 1,
  sense: 3,
  pronoun: 1,
}


def document(rng: random.Random, split: str) -> str:
  """Writes a document about a world of a split."""
  [make] = rng.choices(list(MAKERS), list(MAKERS.values()))
  text = make(rng, split)
  if len(text.split()) < _SHORT and rng.random() < 0.2:
    remark = rng.choice(_REMARKS).format(
      who=rng.choice(world.PEOPLE),
      word=rng.choice(world.TABLES["words_of_forms"]),
    )
    text = f"{remark} {text}"
  return text
