"""Requests that wait for a batch."""

from collections import deque
from collections.abc import Callable, Iterator

from prompt_tuning.inference.requests import Prompt, Ticket
from prompt_tuning.inference.shapes import Shape, Shapes


class QueueFullError(Exception):
  """There is no room for a request now; it may be sent again later."""


class Waiting:
  """A queue from which batches of one shape are taken, the oldest first."""

  def __init__(
    self, shapes: Shapes, room: int, patience: float, max_prompts: int
  ):
    """Begins empty.

    Args:
      shapes: Of batches.
      room: Requests that may wait.
      patience: Seconds that a request waits for others to share a batch with.
      max_prompts: Different prompts of a batch.
    """
    self._shapes = shapes
    self._room = room
    self._patience = patience
    self._max_prompts = max_prompts
    self._tickets: deque[tuple[Ticket, Shape]] = deque()

  def __len__(self) -> int:
    return len(self._tickets)

  def put(self, tickets: list[Ticket]) -> None:
    """Adds requests, all or none.

    Raises:
      QueueFullError: if there is no room for them.
      ValueError: if one fits into no shape.
    """
    shapes = [self._shapes.of(ticket.request) for ticket in tickets]
    self._drop_those_over()
    if len(self) + len(tickets) > self._room:
      raise QueueFullError(
        f"{len(self)} requests are waiting, and there is room for {self._room}."
      )
    self._tickets.extend(zip(tickets, shapes, strict=True))

  def clear(self) -> list[Ticket]:
    """Takes all out."""
    tickets = [ticket for ticket, _ in self._tickets]
    self._tickets.clear()
    return tickets

  def take(self, now: float) -> tuple[list[Ticket], Shape, int] | None:
    """Takes a batch.

    Args:
      now: `time.monotonic()`.

    Returns:
      Its requests, their shape, and the rows of the batch, which may be more;
      None if it is better to wait; see `due`.
    """
    self._drop_those_over()
    if not self._tickets:
      return None
    shape = self._tickets[0][1]
    rows = self._shapes.rows_of(shape)
    prompts: set[Prompt] = set()
    chosen = list(self._choose(rows[-1], prompts, lambda own: own == shape))
    if len(chosen) < rows[-1] and now < self.due():
      return None
    size = next(number for number in rows if number >= len(chosen))
    # What is left over is for shorter ones: it would be padding.
    chosen += self._choose(
      size - len(chosen),
      prompts,
      lambda own: own != shape and own.fits_into(shape),
    )
    taken = {id(ticket) for ticket in chosen}
    self._tickets = deque(x for x in self._tickets if id(x[0]) not in taken)
    return chosen, shape, size

  def _drop_those_over(self) -> None:
    """Forgets those that nobody waits for any more."""
    self._tickets = deque(x for x in self._tickets if not x[0].is_over)

  def due(self) -> float:
    """Returns when the oldest has waited long enough; there must be one."""
    return self._tickets[0][0].arrived + self._patience

  def _choose(
    self, rows: int, prompts: set[Prompt], fits: Callable[[Shape], bool]
  ) -> Iterator[Ticket]:
    """Yields the oldest requests of shapes that fit, and adds their prompts."""
    if not rows:
      return
    for ticket, own in self._tickets:
      if not fits(own):
        continue
      prompt = ticket.request.prompt
      if prompt is not None and prompt not in prompts:
        if len(prompts) == self._max_prompts:
          continue
        prompts.add(prompt)
      yield ticket
      rows -= 1
      if not rows:
        return
