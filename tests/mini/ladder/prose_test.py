"""The prose: told in sentences, true, and about worlds of its split."""

import hashlib
import itertools
import random
import re

import pytest

from prompt_tuning.data import superglue
from prompt_tuning.mini.ladder import corpus, prose, world


@pytest.fixture(scope="module")
def documents():
  rng = random.Random(0)
  return [prose.document(rng, "train") for _ in range(2_000)]


def test_documents_stay_the_same(documents):
  """A change means that checkpoints and records are of other prose."""
  digest = hashlib.sha256("\n".join(documents).encode()).hexdigest()
  assert digest[:12] == "8e83b7169fce"


def test_every_document_has_one_cut_and_fits(documents):
  for document in documents:
    before, after = document.split(prose.CUT)
    assert before.split()
    assert after.split()
    assert len(re.findall(r"\w+|[^\w\s]", before)) < corpus.LENGTHS["inputs"]
    assert len(re.findall(r"\w+|[^\w\s]", after)) < corpus.LENGTHS["targets"]


def test_no_document_has_the_form_of_a_task(documents):
  fields = ["passage", "question", "premise", "hypothesis", "query", "word"]
  fields += ["sentence1", "sentence2", "choice1", "choice2", "entities"]
  fields += [row.prefix.strip() for row in superglue.SUPER_GLUE]
  form = re.compile(rf"\b({'|'.join(fields)})\s*:")
  assert not [d for d in documents if form.search(d)]


@pytest.mark.parametrize("status", world.STATUSES)
def test_claims_have_the_status_that_was_asked_for(status):
  rng = random.Random(0)
  for _ in range(300):
    story = world.draw_story(rng, "train", 2)
    claim = world.draw_claim(rng, story, status)
    known = {(f.who, f.relation["statement"]): f.value for f in story}
    value = known.get((claim.who, claim.relation["statement"]))
    expected = {
      None: "neutral",
      claim.value: "entailment",
    }.get(value, "contradiction")
    assert status == expected


def test_stories_of_splits_are_disjoint():
  rng = random.Random(0)
  seen = [
    {
      tuple(sorted(f.statement for f in world.draw_story(rng, split, 2)))
      for _ in range(1_000)
    }
    for split in ("train", "validation", "test")
  ]
  assert not any(one & other for one, other in itertools.combinations(seen, 2))
