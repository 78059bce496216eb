"""Claims about the paper, against its numbers and against our counts."""

from collections.abc import Mapping, Sequence
import dataclasses

import pydantic

from prompt_tuning.experiments import parameters, tables
from prompt_tuning.experiments.sheets import PaperRow, Sheet
from prompt_tuning.experiments.text_tables import Table
from prompt_tuning.experiments.toml_files import Strict


class Check(Strict):
  """A number, and the claim about it.

  Attributes:
    what: The number's name.
    of: "share.METHOD" in percent, "trainable.METHOD", or "paper.SHEET.ROW".
    minus: Another one, to subtract.
    at: Sizes; all if empty.
    low: The least that is claimed; None if the number only stands there for
      comparison.
    high: The most.
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
    checks: The numbers that it comes down to.
    note: Further remarks.
    verdict: In place of the computed one, if it rests on a search for sources.
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


@dataclasses.dataclass(frozen=True)
class Sources:
  """The numbers that claims are compared with.

  Attributes:
    sheet: Of the counts.
    counted: Size -> counts.
    sheets: Name -> sheet, with the paper's numbers.
  """

  sheet: parameters.ParameterSheet
  counted: Mapping[str, parameters.Counts]
  sheets: Mapping[str, Sheet]

  def value(self, of: str, size: str) -> float:
    """Looks a number up.

    Raises:
      ValueError: if there is no number of that name or size.
    """
    kind, _, rest = of.partition(".")
    if size not in self.counted:
      raise ValueError(
        f"{of}: there is no size {size} of {list(self.counted)}."
      )
    counts = self.counted[size]
    if kind in ("share", "trainable") and rest in counts.methods:
      n = counts.methods[rest]
      return n if kind == "trainable" else 100 * n / counts.frozen
    columns, row = self.row(of)
    label = self.sheet.sizes[size].label
    number = dict(zip(columns, row.numbers(), strict=True)).get(label)
    if number is None:
      raise ValueError(f"{of} has no number for {label}.")
    return number

  def row(self, of: str) -> tuple[list[str], PaperRow]:
    """Returns the columns of a paper's numbers, and one row of them."""
    kind, _, rest = of.partition(".")
    name, _, row_name = rest.rpartition(".")
    paper = self.sheets[name].paper if name in self.sheets else None
    for row in paper.rows if kind == "paper" and paper else ():
      if paper and row.row == row_name:
        return paper.columns, row
    raise ValueError(
      f"There is no {of}. Expected share.METHOD or trainable.METHOD of "
      "configs/parameters.toml, or paper.SHEET.ROW with a row of its [paper]."
    )


def find(
  check: Check, sources: Sources
) -> dict[str, tuple[float, bool | None]]:
  """Compares a number with the claim.

  Returns:
    Size -> the number, and whether it is as claimed; None if it need not be.

  Raises:
    ValueError: if there is no such number.
  """
  found = {}
  for size in check.at or sources.counted:
    value = sources.value(check.of, size)
    if check.minus is not None:
      value -= sources.value(check.minus, size)
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


def page(claims: Claims, sources: Sources) -> bytes:
  """Makes the page, in Markdown."""
  rows = []
  for claim in claims.claims:
    said, held = [], []
    for check in claim.checks:
      found = find(check, sources)
      held += [holds for _, holds in found.values() if holds is not None]
      said.append(describe(check, found, sources))
    if claim.note:
      said.append(" ".join(claim.note.split()))
    rows.append(
      [claim.claim, "<br>".join(said), claim.verdict or verdict(held)]
    )
  text = Table(["Claim", "What is so", "Verdict"], rows, left=3)
  return (
    f"# {claims.title}\n\n{claims.about.strip()}\n\n{text.markdown()}"
  ).encode()


def describe(
  check: Check, found: Mapping[str, tuple[float, bool | None]], sources: Sources
) -> str:
  """Writes a check: its name, its numbers, where they are from."""
  kind, texts = check.of.partition(".")[0], []
  for size, (value, holds) in found.items():
    if kind == "trainable":
      text = f"{value:,.0f}"
    elif kind == "share":
      text = parameters.percent(value)
    else:
      text = f"{value:{'+' if check.minus is not None else ''}.1f}"
    text = f"**{text}**" if holds is False else text
    texts.append(f"{sources.sheet.sizes[size].label} {text}")
  said = f"{check.what}: {', '.join(texts)}"
  if kind == "paper":
    _, row = sources.row(check.of)
    said += f" ({row.source}, {tables.HOW[row.how]})"
  if check.of == "trainable.prompt_tuning" and check.low is not None:
    widths = {sources.counted[x].width: None for x in found}
    lengths = " or ".join(f"{check.low / width:.0f}" for width in widths)
    said += f"; {check.low:,.0f} would be a prompt of {lengths} positions"
  return said
