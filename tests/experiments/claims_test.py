"""Claims: numbers found, verdicts computed."""

import pathlib

import pytest

from prompt_tuning.experiments import (
  claims,
  parameters,
  sheets,
  toml_files,
)

ROOT = pathlib.Path(__file__).parents[2]
SHEET = toml_files.parse(
  ROOT / "configs/parameters.toml", parameters.ParameterSheet
)
SOURCES = claims.Sources(
  SHEET,
  {
    size: parameters.Counts(frozen, width, {"prompt_tuning": 100 * width})
    for size, frozen, width in (
      ("base", 247_577_856, 768),
      ("large", 783_150_080, 1024),
    )
  },
  {x.name: x for x in sheets.load_all(ROOT / "configs")},
)


def _check(**fields):
  return claims.Check(what="x", **fields)


def _holds(**fields):
  return [x.holds for x in claims.find(_check(**fields), SOURCES)]


def test_range_is_checked_at_each_size():
  # 0.0310% and 0.0131%
  of = "share.prompt_tuning"
  assert _holds(of=of, low=0.02, high=0.04) == [True, False]
  assert _holds(of=of, low=0.02, high=0.04, at=["large"]) == [False]
  assert _holds(of=of, low=0.02, high=0.04, within=0.01) == [True, True]
  assert _holds(of=of) == [None, None]


def test_length_of_a_prompt_of_so_many_parameters():
  check = _check(of="trainable.prompt_tuning", low=76_800, high=80_000)
  found = claims.find(check, SOURCES)
  assert claims._said(check, found, SOURCES).endswith(
    "76,800 would be a prompt of 100 or 75 positions"
  )


def test_numbers_of_the_paper():
  tuning, prompt = (f"paper.full/scale.{x}_tuning" for x in ("model", "prompt"))
  # 81.2 - 75.7, read off Figure 1.
  [found] = claims.find(_check(of=tuning, minus=prompt, at=["large"]), SOURCES)
  assert found.value == pytest.approx(5.5)
  assert _holds(of=tuning, at=["large"], low=81.6, high=90, within=0.4) == [
    True
  ]


@pytest.mark.parametrize(
  "of",
  [
    "share.prompt",
    "paper.full/scale.prompt",
    "paper.scaling.prompt_tuning",
    "number.prompt_tuning",
  ],
)
def test_unknown_number_is_refused(of):
  with pytest.raises(ValueError, match=f"There is no {of}"):
    claims.find(_check(of=of), SOURCES)


def test_unknown_size_is_refused():
  with pytest.raises(ValueError, match="there is no size xl of"):
    claims.find(_check(of="share.prompt_tuning", at=["xl"]), SOURCES)


def test_size_that_the_paper_has_no_number_of_is_refused():
  of = "paper.full/ensemble.prompt_tuning"
  row = sheets.PaperRow(
    label="", row="prompt_tuning", values=[1.0], how="printed", source=""
  )
  paper = sheets.Paper(source="", columns=["Small"], rows=[row])
  sheet = SOURCES.sheets["full/ensemble"].model_copy(update={"paper": paper})
  sources = claims.Sources(SHEET, SOURCES.counted, {sheet.name: sheet})
  with pytest.raises(ValueError, match=f"{of} has no number for Base"):
    claims.find(_check(of=of, at=["base"]), sources)


@pytest.mark.parametrize("end", ["low", "high"])
def test_half_a_range_is_refused(end):
  with pytest.raises(ValueError, match="both low and high, or neither"):
    _check(of="share.prompt_tuning", **{end: 1.0})


@pytest.mark.parametrize(
  ("held", "expected"),
  [
    ([True, None], "right"),
    ([True, True, False], "partly right"),
    ([True, False], "partly right"),
    ([True, False, False], "wrong as stated"),
    ([False, None], "wrong"),
  ],
)
def test_verdict(held, expected):
  assert claims.verdict([claims.Finding("base", 0.0, x) for x in held]) == (
    expected
  )


def test_verdict_of_nothing_is_refused():
  with pytest.raises(ValueError, match="Expected a verdict, or a check"):
    claims.verdict([claims.Finding("base", 0.0, None)])


def test_page():
  share = _check(of="share.prompt_tuning", low=0.01, high=0.02)
  count = _check(
    of="trainable.prompt_tuning", low=440_000, high=440_000, at=["base"]
  )
  page = claims.Claims(
    title="T",
    about="A",
    claims=[
      claims.Claim(claim="One", checks=[share], note="A\nnote."),
      claims.Claim(claim="Two", checks=[count]),
      claims.Claim(claim="Three", checks=[], verdict="unknown"),
    ],
  )
  lines = claims.page(page, SOURCES).decode().splitlines()
  assert lines[-3:] == [
    "| One | x: Base **0.0310%**, Large 0.0131%<br>A note. | partly right |",
    "| Two | x: Base **76,800**; 440,000 would be a prompt of 573 positions "
    "| wrong |",
    "| Three |  | unknown |",
  ]


def test_committed_verdicts():
  """Those of a check by hand, of the same claims."""
  rows = [
    line.strip("| ").split(" | ")
    for line in (ROOT / "results/claims.md").read_text().splitlines()
    if line.startswith("| ")
  ][2:]
  assert [(claim.partition(" ")[0], verdict) for claim, _, verdict in rows] == [
    ("XXL:", "found in no source"),
    ("XXL:", "wrong"),
    ("Large:", "wrong"),
    ("Large:", "wrong"),
    ("Base:", "wrong"),
    ("Base:", "wrong"),
    ("Initialising", "wrong as stated"),
    ("Prompt", "partly right"),
    ("Prefix", "partly right"),
    ("LoRA", "partly right"),
    ("Adapters", "partly right"),
  ]
