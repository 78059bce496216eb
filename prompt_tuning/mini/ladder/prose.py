"""What the ladder's models read in pretraining: prose about their world.

Stories with questions, answers and statements of truth; talk about causes,
senses of words and pronouns. Nothing is in the form of a task ("premise: ...").
The words of those forms do occur, in sentences that say nothing else, because a
frozen model can do nothing with a word that it has never seen.

A bar in a document is just before a word that answers something.
"""

from collections.abc import Callable
import random

from prompt_tuning.mini.ladder import world

CUT = "|"
# Of the forms of the tasks, and what the paper initialises prompts with.
WORDS_OF_FORMS = (
  *("passage", "question", "premise", "hypothesis", "paragraph", "answer"),
  *("sentence1", "sentence2", "word", "choice1", "choice2", "cause", "effect"),
  *("query", "entities", "placeholder", "@", "*", ":", ",", "text"),
  *("boolq", "cb", "copa", "multirc", "record", "rte", "wic", "wsc"),
  *("commonsense", "reasoning", "reading", "comprehension"),
  *("pronoun", "resolution", "not_entailment"),
)
# Words of a document that a remark may come before.
_SHORT = 18
_REMARKS = (
  "the {word} .",
  "a {word} ,",
)


def _tell(rng: random.Random, story: list[world.Fact]) -> str:
  return " ".join(f"{fact.statement} ." for fact in story)


def _story(rng: random.Random, split: str) -> list[world.Fact]:
  return world.draw_story(rng, split, 1 if rng.random() < 0.3 else 2)


def answer(rng: random.Random, split: str) -> str:
  """A story, and a question whose answer is a person or a value in it."""
  story = _story(rng, split)
  fact = rng.choice(story)
  relation = fact.relation
  question = rng.choice(
    (
      f"{relation.asks_who} ? |{{who}} .",
      f"someone {relation.statement[6:]} : |{{who}} .",
      f"{relation.asks_what} ? {relation.answers_what} |{{value}} .",
      f"{relation.statement.replace('{value}', '|{value}')} .",
    )
  )
  return f"{_tell(rng, story)} {fact.say(question)}"


_VERDICTS = {
  "entailment": ("yes", "True"),
  "contradiction": ("no", "False"),
  "neutral": ("maybe", "neutral"),
}


def whether(rng: random.Random, split: str) -> str:
  """A story, and whether something is so."""
  story = _story(rng, split)
  status = rng.choice(world.STATUSES)
  claim = world.draw_claim(rng, story, status)
  yes, true = _VERDICTS[status]
  ask = claim.say(claim.relation.asks_whether)
  forms = [
    f"{ask} ? |{yes} .",
    f"so {claim.statement} . this is |{status} .",
  ]
  if status != "neutral":
    forms += [
      f"{ask} ? that is |{true} .",
      f"the answer to {claim.say(claim.relation.asks_what)} is "
      f"{claim.value} : |{true} .",
    ]
  return f"{_tell(rng, story)} {rng.choice(forms)}"


def why(rng: random.Random, split: str) -> str:
  """What happened because of what, told or asked, with one idea or two."""
  law, other, part = world.draw_laws(rng, split)
  ideas = rng.sample((law[part], other[part]), 2)
  right = ideas.index(law[part])
  ask = (
    f"{law[1 - part]} . {('why', 'what then')[part]} ? "
    f"{ideas[0]} or {ideas[1]} ?"
  )
  return rng.choice(
    (
      f"{law[0]} , so |{law[1]} .",
      f"{law[1]} because |{law[0]} .",
      f"{ask} |{law[part]} .",
      f"{ask} it is |choice{1 + right} .",
    )
  )


def sense(rng: random.Random, split: str) -> str:
  """What a word means in a sentence, or whether it means it in another too."""
  same = rng.random() < 0.5
  word, clauses = world.draw_clauses(rng, split, same)
  first, second = (
    f"{who} {clause} ."
    for who, clause in zip(rng.sample(world.PEOPLE, 2), clauses, strict=True)
  )
  kind = next(k for k, fit in world.SENSES[word].items() if clauses[0] in fit)
  return rng.choice(
    (
      f"{first} this {word} is a |{kind} .",
      f"{first} {second} the same {word} ? |{'yes' if same else 'no'} .",
      f"{first} {second} the same {word} ? that is |{same} .",
    )
  )


def pronoun(rng: random.Random, split: str) -> str:
  """Two people meet, and she, or he, was in a mood."""
  meeting = world.draw_meeting(rng, split)
  return rng.choice(
    (
      f"{meeting.statement} . who was {meeting.mood} ? |{meeting.who} .",
      f"{meeting.statement} . who was it ? |{meeting.who} .",
    )
  )


# Ability -> its documents and their share, in tenths.
ABILITIES: dict[str, tuple[Callable[[random.Random, str], str], int]] = {
  "answer": (answer, 2),
  "whether": (whether, 4),
  "why": (why, 1),
  "sense": (sense, 2),
  "pronoun": (pronoun, 1),
}


def document(rng: random.Random, split: str) -> str:
  """A document about a world of a split."""
  makers = [maker for maker, _ in ABILITIES.values()]
  shares = [share for _, share in ABILITIES.values()]
  [make] = rng.choices(makers, shares)
  text = make(rng, split)
  if len(text.split()) < _SHORT and rng.random() < 0.2:
    remark = rng.choice(_REMARKS).format(
      who=rng.choice(world.PEOPLE), word=rng.choice(WORDS_OF_FORMS)
    )
    text = f"{remark} {text}"
  return text
