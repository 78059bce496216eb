"""Numbers that a paper gives, to stand beside ours."""

import re
from typing import Literal

import pydantic

from prompt_tuning.experiments.toml_files import Strict

_NUMBER = re.compile(r"|~?[-+]?\d+(\.\d*)?")


class PaperRow(Strict):
  """A row of the paper's numbers.

  Attributes:
    label: Of the row.
    row: The value of our row axis that it is to be compared with.
    values: A number or a text such as "~62.8" for each column; "" for none.
    band: The lowest and highest of each column, where the figure shows them.
    how: Whether it is printed in the paper, read off its figure, or printed in
      another paper, which `source` names.
  """

  label: str
  row: str | None = None
  values: list[float | str]
  band: list[list[float]] | None = None
  how: Literal["printed", "figure", "elsewhere"]
  source: str

  @pydantic.field_validator("values")
  @classmethod
  def _are_numbers(cls, values: list[float | str]) -> list[float | str]:
    for value in values:
      if isinstance(value, str) and not _NUMBER.fullmatch(value):
        raise ValueError(f'expected a number, "~" before one, or "": {value!r}')
    return values

  def numbers(self) -> list[float | None]:
    """Returns the values as numbers."""
    texts = [str(x).lstrip("~") for x in self.values]
    return [float(x) if x else None for x in texts]


class Paper(Strict):
  """The paper's numbers, to stand beside ours.

  Attributes:
    source: Figure or table.
    columns: The columns that the values of a row belong to.
    x: The columns' positions on a figure's x axis.
    note: How sure the numbers are, and why they may not be comparable.
    rows: The numbers.
  """

  source: str
  columns: list[str]
  x: list[float] = pydantic.Field(default_factory=list)
  note: str = ""
  rows: list[PaperRow]

  @pydantic.model_validator(mode="after")
  def _is_rectangular(self) -> "Paper":
    if self.x and len(self.x) != len(self.columns):
      raise ValueError(f"{len(self.x)} x for {len(self.columns)} columns")
    for row in self.rows:
      for values in (row.values, row.band):
        if values is not None and len(values) != len(self.columns):
          raise ValueError(
            f"{row.label}: {len(values)} values for {len(self.columns)} columns"
          )
    return self
