"""The examples: stable, balanced, disjoint, and true to their form."""

import collections
import hashlib
import inspect
import itertools
import json
import re

import pytest

from prompt_tuning.mini.stories import commonsense, examples, world

SPLITS = tuple(examples.EXAMPLES_PER_SPLIT)
CELLS = list(itertools.product(examples.TASKS, SPLITS))
NAMES = {name for team in (*world.WOMEN, *world.MEN) for name in team}
PLACES = {place for shelf in world.PLACES for place in shelf}
TOWNS = {town for shelf in world.TOWNS for town in shelf}

# Of every row of every split. A change means that recorded results are of other
# data.
DIGESTS = {
  "boolq": "83fb9e5db959",
  "cb": "ba05646c7dfb",
  "copa": "15605a8a662e",
  "multirc": "a08a32182df6",
  "record": "71e6fd757340",
  "rte": "84ee5c3c57d7",
  "wic": "2170f83610fa",
  "wsc": "27bd728cd3cf",
}
rows = examples.features


def words(text):
  return re.findall(r"\w+", text)


@pytest.mark.parametrize("task", examples.TASKS)
def test_examples_stay_the_same(task):
  examples.examples.cache_clear()
  made = [rows(task, split) for split in SPLITS]
  digest = hashlib.sha256(json.dumps(made).encode()).hexdigest()[:12]
  assert digest == DIGESTS[task]


@pytest.mark.parametrize(("task", "split"), CELLS)
def test_ids_are_unique_and_labels_are_balanced(task, split):
  idx = [json.dumps(row["idx"]) for row in rows(task, split)]
  assert len(idx) == len(set(idx)) == examples.EXAMPLES_PER_SPLIT[split]
  if task == "record":
    answers = collections.Counter(x["answers"][0] for x in rows(task, split))
    assert set(answers) == NAMES | TOWNS
    assert max(answers.values()) < 0.1 * answers.total()
  else:
    counts = collections.Counter(row["label"] for row in rows(task, split))
    assert max(counts.values()) - min(counts.values()) <= 1


@pytest.mark.parametrize(("task", "split"), CELLS)
def test_levels_have_their_shares(task, split):
  made = examples.examples(task, split)
  counts = collections.Counter(level for level, _ in made)
  maker, shares = examples.TASKS[task]
  described = " ".join(inspect.getdoc(maker).split())
  assert sum(shares.values()) == 10
  for level, tenths in shares.items():
    assert counts[level] == pytest.approx(len(made) * tenths / 10, abs=6)
    stated = rf'In {tenths}0%( of the examples)? \("{level}"\)'
    assert re.search(stated, described)


def combinations(task, row):
  """What no two splits may have in common."""
  if task == "copa":  # A cause with a thing.
    return {" ".join("" if w in NAMES else w for w in words(row["premise"]))}
  if task == "wic":  # Two sentences with a word.
    clauses = [
      next(
        clause
        for sense in commonsense.SENSES[row["word"]]
        for clause in sense
        if clause in row[sentence]
      )
      for sentence in ("sentence1", "sentence2")
    ]
    return {frozenset(clauses)}
  text = " ".join(value for value in row.values() if isinstance(value, str))
  mentioned = set(words(text))
  return set(
    itertools.product(
      mentioned & NAMES, mentioned & (set(world.KIND_OF) | PLACES | TOWNS)
    )
  )


@pytest.mark.parametrize("task", examples.TASKS)
def test_splits_share_no_combination(task):
  seen = [
    set().union(*(combinations(task, row) for row in rows(task, split)))
    for split in SPLITS
  ]
  assert all(seen)
  for one, other in itertools.combinations(seen, 2):
    assert not one & other


@pytest.mark.parametrize(
  ("task", "claim"),
  [("boolq", "question"), ("rte", "hypothesis"), ("cb", "hypothesis")],
)
def test_each_claim_has_every_label_equally_often(task, claim):
  counts = collections.Counter(
    (row[claim], row["label"]) for row in rows(task, "validation")
  )
  claims, labels = map(set, zip(*counts, strict=True))
  uneven = [c for c in claims if len({counts[c, x] for x in labels}) > 1]
  # The last group of CB is cut.
  assert len(uneven) <= (task == "cb")


@pytest.mark.parametrize("task", ["boolq", "rte"])
def test_a_mentioned_thing_tells_true_from_false(task):
  """At the level "mention" a false claim has a word that the story lacks."""
  story, claim, true = {
    "boolq": ("passage", "question", 1),
    "rte": ("premise", "hypothesis", 0),
  }[task]
  closed = NAMES | PLACES | set(world.KIND_OF) | set(world.DAYS)
  closed |= set(itertools.chain(*world.RELATIONS.values()))
  for level, row in examples.examples(task, "validation"):
    named = set(words(row[claim])) & closed
    missing = named - set(words(row[story]))
    if level == "mention":
      assert bool(missing) == (row["label"] != true)
    if level == "binding":
      assert named
      assert not missing


def test_multirc_has_two_questions_of_five_answers():
  by_paragraph = collections.defaultdict(list)
  for row in rows("multirc", "validation"):
    by_paragraph[row["idx"]["paragraph"]].append(row)
  assert len(by_paragraph) == 50
  for group in by_paragraph.values():
    assert len({row["paragraph"] for row in group}) == 1
    right = collections.Counter()
    for row in group:
      right[row["idx"]["question"], row["question"]] += row["label"]
      assert row["label"] == 0 or row["answer"] in row["paragraph"]
    assert sorted(right.values()) == [2, 3]


@pytest.mark.parametrize("split", SPLITS)
def test_answers_and_spans_are_in_the_text(split):
  for row in rows("record", split):
    assert set(row["answers"]) <= set(row["entities"])
    assert row["entities"] == sorted(set(row["entities"]))
    assert set(row["entities"]) <= set(words(row["passage"]))
    assert row["query"].count("@placeholder") == 1
    assert row["answers"][0] not in words(row["query"])
  pronouns = dict.fromkeys(itertools.chain(*world.WOMEN), "she")
  pronouns |= dict.fromkeys(itertools.chain(*world.MEN), "he")
  for row in rows("wsc", split):
    tokens = row["text"].split(" ")
    length = len(row["span1_text"].split(" "))
    start = row["span1_index"]
    assert " ".join(tokens[start : start + length]) == row["span1_text"]
    assert tokens[row["span2_index"]] == row["span2_text"]
    if row["label"]:
      assert row["span2_text"] == pronouns.get(row["span1_text"], "it")
  for row in rows("wic", split):
    for n in ("1", "2"):
      span = slice(row[f"start{n}"], row[f"end{n}"])
      assert row[f"sentence{n}"][span] == row["word"]


def test_every_word_is_a_word_of_the_world_once():
  """Otherwise a story could mention a thing by accident, as a place."""
  closed = [*NAMES, *PLACES, *TOWNS, *world.KIND_OF, *world.DAYS]
  assert len(closed) == len(set(closed))
