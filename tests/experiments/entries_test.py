"""Entries of a table, and what they differ by."""

import math

import pytest

from prompt_tuning.experiments import entries

THREE = entries.Entry({(0,): 80.0, (1,): 70.0, (2,): 90.0})


def test_failed_runs_are_counted_not_averaged():
  entry = entries.entry_of({(0,): 80.0, (1,): None, (2,): 90.0})
  assert (entry.summary.mean, entry.summary.n, entry.failed) == (85.0, 2, 1)
  assert str(entries.entry_of({(0,): None})) == "failed"
  assert str(entries.Entry({})) == entries.NONE


def test_gap_is_of_the_seeds_that_both_have():
  gap = entries.gap(THREE, entries.Entry({(1,): 60.0}))
  assert (gap.mean, gap.std, gap.n) == (10.0, None, 1)
  gap = entries.gap(THREE, entries.Entry({(1,): 60.0, (2,): 70.0}))
  assert (gap.mean, gap.n) == (15.0, 2)
  assert gap.std == pytest.approx(math.hypot(math.sqrt(200), math.sqrt(50)))


def test_gap_to_what_has_no_seed_is_of_all():
  gap = entries.gap(THREE, entries.Entry({(): 50.0}))
  assert (gap.mean, gap.std, gap.n) == (30.0, None, 1)
  assert entries.gap(THREE, entries.Entry({})) is None
  assert entries.gap(None, THREE) is None
