"""Tables of texts."""

from prompt_tuning.experiments import text_tables

TABLE = text_tables.Table(["a_b", "n"], [["x|y", "1"], ["longer", "20 ± 1"]])


def test_markdown():
  assert TABLE.markdown().splitlines() == [
    "| a_b | n |",
    "| --- | ---: |",
    "| x\\|y | 1 |",
    "| longer | 20 ± 1 |",
  ]


def test_latex_quotes_its_signs():
  lines = TABLE.latex().splitlines()
  assert lines[0] == r"\begin{tabular}{lr}"
  assert r"a\_b & n \\" in lines
  assert r"longer & 20 $\pm$ 1 \\" in lines
  signs = text_tables.Table([], [[r"a\b", "{x}", "2^3", "$5", "~7"]])
  assert signs.latex().splitlines()[-3] == (
    r"a\textbackslash{}b & \{x\} & 2\textasciicircum{}3 & \$5 & $\sim$7 \\"
  )
