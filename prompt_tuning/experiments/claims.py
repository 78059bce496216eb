"""Claims about the paper, compared with its numbers and with our counts."""

from collections.abc import Iterable, Mapping, Sequence

import pydantic

from prompt_tuning.experiments import parameters, tables
from prompt_tuning.experiments.cells import Strict
from prompt_tuning.experiments.sheets import Sheet
from prompt_tuning.experiments.text_tables import Table


class Check(Strict):
  """A number, and the claim about it.

  Attributes:
    what: The number's name.
    of: "share.METHOD" in percent, "trainable.METHOD", or "paper.SHEET.ROW".
    minus: Another number, to subtract.
    at: Sizes; all if empty.
    low: The smallest value that agrees with the claim; None if the number is
      only shown for comparison.
    high: The largest value that agrees with the claim.
    within: The tolerance: the claim's rounding, or the error of the number.
  """

  what: str
  of: str
  minus: str | None = None
  at: list[str] = pydantic.Field(default_factory=list)
  low: float | None = None
  high: float | None = None
  within: float = 0.0

  @pydantic.model_validator(mode="after")
  def _is_a_range(self) -> "Check":
    if (self.low is None) != (self.high is None):
      raise ValueError(f"{self.what}: expected both low and high, or neither")
    return self


class Claim(Strict):
  """A claim.

  Attributes:
    claim: The claim, as articles state it.
    checks: The numbers that decide it.
    note: Further remarks.
    verdict: Replaces the computed verdict, for a claim that was checked by a
      search for sources.
  """

  claim: str
  checks: list[Check]
  note: str = ""
  verdict: str | None = None


class Claims(Strict):
  """A page of claims."""

  title: str
  about: str
  claims: list[Claim]


# Name, as `Check.of` gives it -> size -> number.
Numbers = dict[str, dict[str, float]]


def collect(
  sheet: parameters.ParameterSheet,
  counted: Mapping[str, parameters.Counts],
  sheets: Mapping[str, Sheet],
) -> tuple[Numbers, dict[str, str]]:
  """Returns all numbers by name, with the sources of the paper's in brackets.

  Args:
    sheet: The sheet of the counts.
    counted: Size -> counts.
    sheets: Name -> sheet, with the paper's numbers.
  """
  found: Numbers = {}
  sources: dict[str, str] = {}
  for size, counts in counted.items():
    for method, n in counts.methods.items():
      for kind, x in (("trainable", n), ("share", 100 * n / counts.frozen)):
        found.setdefault(f"{kind}.{method}", {})[size] = x
  for name, paper in ((name, x.paper) for name, x in sheets.items() if x.paper):
    for row in paper.rows:
      numbers = dict(zip(paper.columns, row.numbers(), strict=True))
      known = {k: numbers.get(x.label) for k, x in sheet.sizes.items()}
      values = {k: x for k, x in known.items() if x is not None}
      place = f"paper.{name}.{row.row}"
      found.setdefault(place, values)
      sources.setdefault(place, f" ({row.source}, {tables.HOW[row.how]})")
  return found, sources


def find(
  check: Check, sizes: Iterable[str], numbers: Numbers
) -> dict[str, tuple[float, bool | None]]:
  """Compares a number with the claim.

  Args:
    check: The number and its claim.
    sizes: All sizes.
    numbers: All numbers.

  Returns:
    Size -> the number, and whether it is as claimed; None if it need not be.

  Raises:
    ValueError: if there is no such number.
  """
  found = {}
  for size in check.at or sizes:
    values = []
    for of in filter(None, (check.of, check.minus)):
      if of not in numbers:
        raise ValueError(
          f"There is no {of}. Expected share.METHOD or trainable.METHOD of "
          "configs/parameters.toml, or paper.SHEET.ROW with a row of its "
          "[paper]."
        )
      if size not in numbers[of]:
        raise ValueError(f"{of} has no number for size {size}.")
      values.append(numbers[of][size])
    value = values[0] - sum(values[1:])
    holds = None
    if check.low is not None and check.high is not None:
      # Not to call 83.1 - 82.7 more than 0.4.
      slack = check.within + 1e-9
      holds = check.low - slack <= value <= check.high + slack
    found[size] = (value, holds)
  return found


def verdict(held: Sequence[bool]) -> str:
  """Returns how much of a claim holds.

  Raises:
    ValueError: if nothing is claimed.
  """
  if not held:
    raise ValueError(
      "Expected a verdict, or a check with `low` and `high` to compute it from."
    )
  if all(held):
    return "right"
  if not any(held):
    return "wrong"
  return "partly right" if 2 * sum(held) >= len(held) else "wrong as stated"


def page(
  claims: Claims,
  sheet: parameters.ParameterSheet,
  counted: Mapping[str, parameters.Counts],
  sheets: Mapping[str, Sheet],
) -> bytes:
  """Makes the page, in Markdown; the arguments are those of `collect`."""
  numbers, sources = collect(sheet, counted, sheets)
  rows = []
  for claim in claims.claims:
    said, held = [], []
    for check in claim.checks:
      found = find(check, counted, numbers)
      held += [holds for _, holds in found.values() if holds is not None]
      kind, texts = check.of.partition(".")[0], []
      for size, (value, holds) in found.items():
        text = f"{value:{'' if check.minus is None else '+'}.1f}"
        if kind != "paper":
          is_share = kind == "share"
          text = parameters.percent(value) if is_share else f"{value:,.0f}"
        text = f"**{text}**" if holds is False else text
        texts.append(f"{sheet.sizes[size].label} {text}")
      text = f"{check.what}: {', '.join(texts)}{sources.get(check.of, '')}"
      if check.of == "trainable.prompt_tuning" and check.low is not None:
        widths = {counted[x].width: None for x in found}
        lengths = " or ".join(f"{check.low / width:.0f}" for width in widths)
        text += f"; {check.low:,.0f} would be a prompt of {lengths} positions"
      said.append(text)
    if claim.note:
      said.append(" ".join(claim.note.split()))
    rows.append(
      [claim.claim, "<br>".join(said), claim.verdict or verdict(held)]
    )
  text = Table(["Claim", "What is so", "Verdict"], rows, left=3)
  return (
    f"# {claims.title}\n\n{claims.about.strip()}\n\n{text.markdown()}"
  ).encode()
