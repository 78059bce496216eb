"""Mutations of a file's bytes, drawn by hypothesis."""

from collections.abc import Callable, Sequence
import re

from hypothesis import strategies as st

# Values to write where the file has a value of another kind.
TOKENS = [
  *(b"", b"null", b"true", b"0", b"-1", b"1e999", b"NaN", b"9" * 25, b"0.5"),
  *(b"[]", b"{}", b"[1]", b'{"a": 1}', b'""', b'"x"', b"'", b'"', b"\\ud800"),
  *(b"\0", b"\xff", b"\xef\xbb\xbf", b"\n", b"\r", b"\t", b" ", b",", b"="),
  *(b"../", b"/dev/zero", b"%s", b"@", b"%", b"[" * 5000, b'{"a":' * 5000),
  *(b"(" * 5000, b"\x91" * 5000, b"\xff\xff\xff\x7f", b"\0\0\0\x80"),
]
# A string, number or word of JSON, TOML or a similar format.
_VALUE = re.compile(rb'"(?:[^"\\\n]|\\.)*"|-?\d[\d.eE+-]*|\b[A-Za-z_]+\b')
_CLOSING = {b"[": b"]", b"{": b"}", b"(": b")"}
# Limit in bytes, because edits may repeat parts.
_LONGEST = 2**18
# Data, and three numbers that choose places, lengths and kinds.
Edit = Callable[[bytes, int, int, int], bytes]


def _place(data: bytes, a: int, b: int) -> tuple[int, int]:
  """Returns the start and the end of a part, usually a short one."""
  start = a % (len(data) + 1)
  most = len(data) - start
  return start, start + (b % (min(most, 16 if b % 4 else most) + 1))


def _flip(data: bytes, a: int, b: int, c: int) -> bytes:
  start = a % max(len(data), 1)
  flipped = bytes(x ^ (1 << b % 8) for x in data[start : start + 1])
  return data[:start] + flipped + data[start + 1 :]


def _delete(data: bytes, a: int, b: int, c: int) -> bytes:
  start, end = _place(data, a, b)
  return data[:start] + data[end:]


def _truncate(data: bytes, a: int, b: int, c: int) -> bytes:
  return data[: a % (len(data) + 1)]


def _repeat(data: bytes, a: int, b: int, c: int) -> bytes:
  start, end = _place(data, a, b)
  return data[:end] + data[start:end] * (c % 64) + data[end:]


def _insert(data: bytes, a: int, b: int, c: int) -> bytes:
  start, _ = _place(data, a, b)
  return data[:start] + TOKENS[c % len(TOKENS)] + data[start:]


def _overwrite(data: bytes, a: int, b: int, c: int) -> bytes:
  start, _ = _place(data, a, b)
  token = TOKENS[c % len(TOKENS)]
  return data[:start] + token + data[start + len(token) :]


def _swap(data: bytes, a: int, b: int, c: int) -> bytes:
  start, end = _place(data, a, b)
  other = end + c % (len(data) - end + 1)
  return data[:start] + data[end:other] + data[start:end] + data[other:]


def _value(data: bytes, a: int, b: int, c: int) -> bytes:
  """Replaces a number, a string or a word with a token."""
  found = [match.span() for match in _VALUE.finditer(data)]
  if not found:
    return _insert(data, a, b, c)
  start, end = found[a % len(found)]
  return data[:start] + TOKENS[c % len(TOKENS)] + data[end:]


def _group(data: bytes, a: int, b: int, c: int) -> bytes:
  """Replaces two brackets and everything between them with a token."""
  starts = [match.start() for match in re.finditer(rb"[\[{(]", data)]
  if not starts:
    return _value(data, a, b, c)
  start = end = starts[a % len(starts)]
  opening, depth = data[start : start + 1], 0
  for end in range(start, len(data)):
    here = data[end : end + 1]
    depth += (here == opening) - (here == _CLOSING[opening])
    if not depth:
      break
  return data[:start] + TOKENS[c % len(TOKENS)] + data[end + 1 :]


EDITS: Sequence[Edit] = (
  *(_flip, _delete, _truncate, _repeat, _insert, _overwrite, _swap),
  *(_value, _group),
)
_NUMBER = st.integers(0, 2**32 - 1)
MUTATIONS = st.lists(
  st.tuples(st.integers(0, len(EDITS) - 1), _NUMBER, _NUMBER, _NUMBER),
  min_size=1,
  max_size=4,
)


def mutated(data: bytes, edits: Sequence[tuple[int, int, int, int]]) -> bytes:
  """Applies edits, each an index in `EDITS` and three numbers for it."""
  for kind, *numbers in edits:
    data = EDITS[kind](data, *numbers)[:_LONGEST]
  return data
