"""Tests of the owners of prompts, files and jobs, and of their visibility."""

import pytest

from prompt_tuning.tuning_jobs import jobs, owners

COMMON, OWN, SHARED = "x", "x@ann", "x@ann.shared"


@pytest.mark.parametrize(
  ("stem", "shown"),
  [
    # The names shown without keys, to the owner, to another, to nobody.
    (COMMON, ("x", "x", "x", "x")),
    (OWN, (OWN, "x", None, None)),
    (SHARED, (SHARED, "x", OWN, OWN)),
    ("x.shared", ("x.shared",) * 4),  # The name itself ends in ".shared".
  ],
)
def test_names_of_a_prompt(stem, shown):
  assert owners.STEM.fullmatch(stem)
  tenants = (None, "ann", "bob", owners.NOBODY)
  assert tuple(owners.shown(stem, x) for x in tenants) == shown
  for tenant, name in zip(tenants, shown, strict=True):
    if name is not None:  # The tenant reaches the prompt by this name.
      assert stem in owners.meant(name, tenant)
  is_owned = "@" in stem
  owning = [owners.owns(x, stem) for x in tenants]
  assert owning == [True, is_owned, False, False]


@pytest.mark.parametrize("name", [OWN, "x@ann.shared", "ann", "x@", "?"])
def test_no_name_reaches_another_s_prompt(name):
  for tenant in ("bob", owners.NOBODY):
    assert OWN not in owners.meant(name, tenant)


def test_rows_of_others_do_not_exist(store):
  ann, bob = store.of("ann"), store.of("bob")
  file = ann.add_file("data.jsonl", b'{"prompt": "a", "completion": "b"}').id
  job = ann.add_job(file, file, "mine", jobs.Settings(length=3))
  assert [x.owner for x in (*store.files(), *store.jobs())] == ["ann", "ann"]
  for ask in (bob.file, bob.content, bob.delete_file, bob.job, bob.cancel):
    with pytest.raises(jobs.UnknownError):
      ask(job.id if ask in (bob.job, bob.cancel) else file)
  with pytest.raises(jobs.UnknownError):
    bob.add_job(file, None, "mine", jobs.Settings())
  assert not bob.files() + bob.jobs()
  assert not +bob.usage()
  used = {"bytes": 34, "files": 2, "jobs": 1, "positions": 3}
  assert ann.usage() == store.usage() == used
  assert store.claim().owner == "ann"  # The worker has no tenant.
  assert ann.cancel(job.id).is_cancelled
