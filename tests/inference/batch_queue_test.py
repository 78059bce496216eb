"""Tests of the requests that share a batch, and of when a batch starts."""

import numpy as np
import pytest

from prompt_tuning.inference.batch_queue import (
  BatchQueue,
  QueueFullError,
  Settings,
  Shape,
  Shapes,
)
from prompt_tuning.inference.requests import (
  Generation,
  Ranking,
  Ticket,
  TunedPrompt,
)

SHAPES = Shapes(
  rows=(1, 2, 4),
  lengths=(8, 16),
  steps=(4, 8),
  labels=(8,),
  beams=(2,),
  positions=48,
)


def _queue(**options):
  options = {"room": 10, "slots": 2, "chunk": 3, **options}
  settings = Settings(shapes=SHAPES, patience=1.0, **options)
  return BatchQueue(settings)


def _generation(length=5, prompt=None, steps=4, arrived=0.0, **options):
  return Ticket(Generation((3,) * length, prompt, steps, **options), arrived)


def _prompt(length=2):
  return TunedPrompt(np.zeros((length, 4), np.float32))


@pytest.mark.parametrize(
  ("request_", "shape", "rows"),
  [
    (_generation(8).request, Shape("generate", 8, 4), [1, 2, 4]),
    (_generation(8, _prompt(1)).request, Shape("generate", 16, 4), [1, 2]),
    (_generation(9, steps=5).request, Shape("generate", 16, 8), [1, 2]),
    (_generation(num_beams=2).request, Shape("beam", 8, 4, 2), [1, 2]),
    (Ranking((3,), None, ((4, 1), (5,))), Shape("rank", 8, 8), [1, 2, 4]),
  ],
)
def test_smallest_shape_counts_the_prompt_and_is_compiled(
  request_, shape, rows
):
  assert SHAPES.smallest_for(request_) == shape
  assert shape in set(SHAPES)
  assert SHAPES.rows_of(shape) == rows


def test_a_batch_waits_until_it_is_full_or_late():
  queue = _queue()
  first = _generation(arrived=5.0)
  queue.put([first])
  assert queue.take(5.5) is None
  assert queue.due() == 6.0
  assert queue.take(6.0) == ([first], Shape("generate", 8, 4), 1)
  assert not queue
  four = [_generation(arrived=7.0) for _ in range(4)]
  queue.put(four)
  assert queue.take(7.0) == (four, Shape("generate", 8, 4), 4)


def test_what_is_left_over_goes_to_shorter_ones():
  queue = _queue()
  ranking = Ticket(Ranking((3,), None, ((4, 1),)), 0.0)
  long, short = _generation(12), _generation(3)
  slow = _generation(3, steps=8)
  queue.put([ranking])
  queue.put([short, slow, long])
  assert queue.take(2.0)[0] == [ranking]
  assert queue.take(2.0) == ([short], Shape("generate", 8, 4), 1)
  assert queue.take(2.0) == ([slow], Shape("generate", 8, 8), 1)
  three = [_generation(6, steps=8) for _ in range(3)]
  queue.put([*three, short])
  # `long` fills its batch of one row; `three` leaves a fourth row to `short`.
  assert queue.take(2.0) == ([long], Shape("generate", 16, 4), 1)
  assert queue.take(2.0) == ([*three, short], Shape("generate", 8, 8), 4)


@pytest.mark.parametrize(("seconds", "rows"), [(0.3, [4]), (0.1, [2, 1])])
def test_three_share_the_rows_that_were_faster(seconds, rows):
  queue, shape = _queue(), Shape("generate", 8, 4)
  queue.took(shape, 4, 0.4)
  queue.took(shape, 2, seconds)
  queue.put([_generation() for _ in range(3)])
  assert [queue.take(2.0)[2] for _ in rows] == rows


def test_prompts_of_a_batch_fit_the_table():
  queue, prompts = _queue(), [_prompt() for _ in range(3)]
  tickets = [_generation(prompt=prompt) for prompt in [*prompts, prompts[0]]]
  queue.put(tickets)
  assert queue.take(2.0)[0] == [tickets[0], tickets[1], tickets[3]]
  assert queue.take(2.0)[0] == [tickets[2]]


def test_what_joins_fits_and_leaves_the_oldest_only_if_that_can_start():
  queue, shape = _queue(), Shape("generate", 16, 4)
  slow, short, long = _generation(3, steps=8), _generation(3), _generation(12)
  assert queue.take_more(shape, 2, 1, may_overtake=True) is None
  ranking = Ticket(Ranking((3,), None, ((4, 1),)), 0.0)
  queue.put([ranking, slow, short, long])
  # Rankings take one step, so they do not wait for decodings.
  assert queue.take(2.0, may_decode=False)[0] == [ranking]
  assert queue.take(2.0, may_decode=False) is None
  queue.put([ranking])
  assert queue.take_more(shape, 2, 1, may_overtake=False) is None
  # A batch of one row takes no other requests.
  assert queue.take_more(shape, 1, 1, may_overtake=True) is None
  assert queue.take_more(shape, 2, 0, may_overtake=True) is None
  # `long` has the batch's shape but does not overtake `short`, which is older.
  assert queue.take_more(shape, 2, 1, may_overtake=True) == ([short], shape, 1)
  small = Shape("generate", 8, 8)
  more = [_generation(3) for _ in range(3)]
  queue.put(more)
  # At most two requests at a time join a batch of four rows.
  taken = queue.take_more(small, 4, 3, may_overtake=False)
  assert taken == ([slow, more[0]], small, 2)
  assert queue.take_more(small, 4, 1, may_overtake=False) is None
  assert queue.take_more(small, 4, 1, may_overtake=True)[0] == more[1:2]
  queue.put([_generation(3, steps=8) for _ in range(4)])
  # These requests would fill a larger batch, so they do not join two rows.
  assert queue.take_more(small, 2, 1, may_overtake=True) is None
  queue = _queue(chunk=8)
  queue.put(more)
  assert queue.take_more(small, 4, 1, may_overtake=False) is None


def test_cancelled_requests_take_neither_a_row_nor_room():
  queue = _queue(room=4)
  tickets = [_generation() for _ in range(4)]
  queue.put(tickets)
  for ticket in tickets[:3]:
    ticket.cancel()
  assert queue.take(2.0) == (tickets[3:], Shape("generate", 8, 4), 1)
  queue.put(tickets)
  queue.put([_generation() for _ in range(3)])
  # `put` adds all requests or none.
  queue.take(2.0)
  queue.put([_generation() for _ in range(3)])
  with pytest.raises(QueueFullError, match="3 requests are waiting"):
    queue.put([_generation(), _generation()])
  assert len(queue) == 3


@pytest.mark.parametrize("rows", [(), (2, 4), (4, 1), (0, 1)])
def test_wrong_shapes_are_refused(rows):
  with pytest.raises(ValueError, match="rows"):
    Shapes(rows=rows)
