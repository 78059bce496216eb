"""Tables of texts, written as Markdown or LaTeX."""

from collections.abc import Collection, Sequence
import dataclasses

# A sign -> how LaTeX prints it.
_LATEX = str.maketrans(
  {
    **{x: f"\\{x}" for x in "&%_#{}$"},
    **{"\\": r"\textbackslash{}", "^": r"\textasciicircum{}"},
    **{"~": r"$\sim$", "±": r"$\pm$"},
  }
)


@dataclasses.dataclass(frozen=True)
class Table:
  """A table of texts.

  Attributes:
    header: A text for each column.
    rows: As long as the header.
    left: Number of columns aligned to the left, or their headers; the others go
      to the right.
  """

  header: Sequence[str]
  rows: Sequence[Sequence[str]]
  left: int | Collection[str] = 1

  def _aligned(self, left: str, right: str) -> list[str]:
    """Returns a mark for each column, by its alignment."""
    names = self.left
    if isinstance(names, int):
      return [left if i < names else right for i, _ in enumerate(self.header)]
    return [left if name in names else right for name in self.header]

  def markdown(self) -> str:
    """Writes a table in GitHub's Markdown, with a line end."""
    rule = self._aligned("---", "---:")
    lines = [
      [text.replace("|", "\\|") for text in line]
      for line in (self.header, *self.rows)
    ]
    return "".join(
      f"| {' | '.join(line)} |\n" for line in (lines[0], rule, *lines[1:])
    )

  def latex(self) -> str:
    """Writes a tabular in the style of booktabs."""
    lines = [
      f"\\begin{{tabular}}{{{''.join(self._aligned('l', 'r'))}}}",
      "\\toprule",
      _latex_row(self.header),
      "\\midrule",
      *map(_latex_row, self.rows),
      "\\bottomrule",
      "\\end{tabular}",
    ]
    return "\n".join(lines) + "\n"


def _latex_row(row: Sequence[str]) -> str:
  return " & ".join(text.translate(_LATEX) for text in row) + r" \\"
