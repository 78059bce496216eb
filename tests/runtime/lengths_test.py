"""Tests of batches by length: each example once, few shapes and padding."""

import itertools

import numpy as np
import pytest

from t5x.input import lengths


@pytest.fixture
def rng():
  return np.random.default_rng(0)


def _cost(shapes, fixed):
  return sum(x.rows * (x.length + fixed) for x in shapes)


@pytest.mark.parametrize("count", [1, 3, 6])
@pytest.mark.parametrize(
  ("rows", "longest", "fixed", "multiple"),
  [(32, 512, 100, 1), (8, 7, 0, 1), (24, 312, 20, 8), (3, 40, 0, 3)],
)
def test_shapes_are_few_and_have_about_as_many_tokens(
  rows, longest, fixed, multiple, count
):
  shapes = lengths.shapes(rows, longest, count, fixed, multiple)
  assert len(shapes) <= count
  assert max(x.length for x in shapes) == longest
  for shape in shapes:
    assert shape.rows % multiple == 0
    assert rows % shape.rows == 0
  if rows > multiple:
    most = max(_cost([x], fixed) for x in shapes)
    # Fewer than 512 tokens do not fill a processor.
    assert most <= max(max(rows / 4, multiple) * (longest + fixed), 512)


def test_a_plan_has_every_example_once_and_is_the_cheapest(monkeypatch, rng):
  """Compares plans with all ways to cut six examples."""
  monkeypatch.setattr(lengths, "_OVERHEAD", 5)
  shapes = [lengths.Shape(4, 8), lengths.Shape(2, 16), lengths.Shape(1, 40)]
  for _ in range(20):
    sizes = rng.integers(1, 41, 6)
    ordered, costs = np.sort(sizes), []
    for number in range(6):
      for cuts in itertools.combinations(range(1, 6), number):
        parts = itertools.pairwise((0, *cuts, 6))
        fitting = [
          [
            _cost([x], 3) + 5
            for x in shapes
            if x.rows >= stop - start and x.length >= ordered[stop - 1]
          ]
          for start, stop in parts
        ]
        costs.append(sum(min(x, default=np.inf) for x in fitting))
    # Examples of more than 16 tokens need the shape of one row.
    plan = lengths.plan(sizes, shapes, 3)
    assert _cost([x.shape for x in plan], 3) + 5 * len(plan) == min(costs)
    assert sorted(np.concatenate([x.rows for x in plan])) == list(range(6))
    for microbatch in plan:
      assert 0 < len(microbatch.rows) <= microbatch.shape.rows
      assert sizes[microbatch.rows].max() <= microbatch.shape.length


def test_processes_plan_the_same_shapes_when_they_agree_on_lengths(rng):
  shapes = lengths.shapes(16, 100, 5)
  parts = [rng.integers(1, 101, 16) for _ in range(3)]
  longest = np.max([np.sort(x) for x in parts], axis=0)
  plans = [lengths.plan(x, shapes, agreed=lambda _: longest) for x in parts]
  assert len({tuple(x.shape for x in plan) for plan in plans}) == 1
  for sizes, plan in zip(parts, plans, strict=True):
    for microbatch in plan:
      assert sizes[microbatch.rows].max() <= microbatch.shape.length


def test_what_is_missing_in_a_shape_is_padding():
  features = {
    "encoder_input_tokens": np.array([[5, 6, 0, 0], [7, 0, 0, 0]]),
    "decoder_target_tokens": np.array([[1, 2], [3, 4]]),
  }
  np.testing.assert_array_equal(lengths.count_tokens(features), [2, 1])
  one = {"encoder_input_tokens": np.array([5, 0, 6])}
  assert lengths.count_tokens(one) == 3
  assert lengths.count_tokens({}) == 0
  taken = lengths.take(
    features, lengths.Microbatch(np.array([1]), lengths.Shape(2, 3))
  )
  expected = [[[7, 0, 0], [0, 0, 0]], [[3, 4], [0, 0]]]
  np.testing.assert_equal(taken, dict(zip(features, expected, strict=True)))


@pytest.mark.parametrize(("number", "most"), [(5, 1), (150, 2), (1000, 5)])
def test_a_split_has_more_shapes_the_more_batches_it_has(number, most, rng):
  sizes = (1 + 199 * rng.random(number) ** 3).astype(int)
  plan = lengths.plan_split(sizes, 8, 210)
  assert sorted(np.concatenate([x.rows for x in plan])) == list(range(number))
  assert {len(x.rows) for x in plan[:-1]} <= {8}
  assert {x.shape.rows for x in plan} == {8}
  found = {x.shape.length for x in plan}
  assert len(found) == most
  assert max(found) == 210  # The length of the features.
  # Splits of the same features share their shapes.
  assert found <= {210, 128, 80, 48, 32}
  for batch in plan:
    longest = sizes[batch.rows].max()
    assert batch.shape.length == min(x for x in found if x >= longest)
  share = sum(x.shape.length for x in plan) / (210 * len(plan))
  assert share <= {1: 1, 2: 0.75, 5: 0.45}[most]
