"""Tests of exact parameter counts and of claims about them."""

import csv

from documented import ROOT
import jax
import pytest
import tiny

from prompt_tuning.experiments import (
  claims,
  generated_files,
  pages,
  parameters,
  sheets,
)
from t5x import gin_utils, models

SHEET = sheets.parse(
  ROOT / "configs/parameters.toml", parameters.ParameterSheet
)
TINY = SHEET.model_copy(
  update={
    "sizes": {
      "tiny": parameters.Size(
        label="Tiny", gin_file=str(ROOT / "tests/testdata/tiny.gin")
      )
    }
  }
)
FROZEN_AND_WIDTHS = {
  "small": (76_961_152, 512),
  "base": (247_577_856, 768),
  "large": (783_150_080, 1024),
  "xl": (2_849_757_184, 2048),
  "xxl": (11_135_332_352, 4096),
}
# Counts for Base to XXL, by formulas derived independently of this code.
METHODS = {
  "ia3": (104_448, 282_624, 540_672, 1_081_344),
  "lora": (884_736, 2_359_296, 4_718_592, 9_437_184),
  "lora_self": (589_824, 1_572_864, 3_145_728, 6_291_456),
  "prefix_encoder": (1_843_200, 4_915_200, 9_830_400, 19_660_800),
  "prefix_self": (3_686_400, 9_830_400, 19_660_800, 39_321_600),
  "prefix": (5_529_600, 14_745_600, 29_491_200, 58_982_400),
  "prefix_self_mlp": (19_852_288, 51_684_352, 103_367_680, 206_734_336),
  "prefix_mlp": (29_778_432, 77_526_528, 155_051_520, 310_101_504),
  "adapter_self": (4_758_528, 12_687_360, 25_368_576, 50_731_008),
  "adapter": (5_948_160, 15_859_200, 31_710_720, 63_413_760),
}


def _counted():
  """Reads the committed counts: size -> counts."""
  text = (ROOT / "results/tables/parameters.csv").read_text()
  rows = list(csv.DictReader(text.splitlines()))
  found = {}
  for size in SHEET.sizes:
    own = [x for x in rows if x["size"] == size]
    width = int(own[0]["trainable"]) // int(own[0]["prompt_length"])
    methods = {"prompt_tuning": 100 * width}
    for x in own:
      if not x["prompt_length"]:
        methods[x["method"]] = int(x["trainable"])
    found[size] = parameters.Counts(int(own[0]["frozen"]), width, methods)
  return found


COUNTED = _counted()
SHEETS = sheets.load_all(ROOT / "configs")
NUMBERS, _ = claims.collect(SHEET, COUNTED, SHEETS)


def test_committed_counts_are_the_papers_and_the_formulas():
  """`tabulate --check` compares the committed counts with the models."""
  sizes = {x: (n.frozen, n.width) for x, n in COUNTED.items()}
  assert sizes == FROZEN_AND_WIDTHS
  for method, counts in METHODS.items():
    sizes = zip(("base", "large", "xl", "xxl"), counts, strict=True)
    assert all(COUNTED[x].methods[method] == n for x, n in sizes)


def test_counts_make_the_committed_files(monkeypatch):
  """The counts make the tables, the figure and the verdicts on claims."""
  monkeypatch.setattr(parameters, "count", lambda _, size: COUNTED[size])
  # These pages read the configuration of every cell, which takes long.
  for name in ("drift_page", "hours_page"):
    monkeypatch.setattr(pages, name, lambda _: "")
  files, empty = generated_files.make(ROOT, ["parameters", "claims"])
  for name in (pages.DRIFT_PAGE, pages.HOURS_PAGE):
    assert files.pop(f"{generated_files.TABLES}/{name}") == b""
  assert "results/claims.md" in files
  assert len([x for x in files if "tables/parameters" in x]) == 5
  assert generated_files.differences(files, ROOT) == ([], [])
  assert not empty
  with pytest.raises(ValueError, match="no_sheet"):
    generated_files.make(ROOT, ["no_sheet"])


@pytest.mark.parametrize("every", [4, pytest.param(1, marks=pytest.mark.slow)])
def test_what_a_method_alone_trains_is_what_is_counted(every):
  """The optimizer trains the counted parameters and freezes the others."""
  counts = parameters.count(TINY, "tiny")
  assert counts.width == 16
  for name, method in list(SHEET.methods().items())[::every]:
    with gin_utils.bound_arguments(
      models.EncoderDecoderModel,
      [TINY.sizes["tiny"].gin_file, *method.gin_files],
      method.bindings,
    ) as arguments:
      model = models.EncoderDecoderModel(**arguments)
      shapes = jax.eval_shape(
        lambda rng, model=model: model.get_initial_variables(
          rng, tiny.input_shapes()
        ),
        jax.random.key(0),
      )["params"]
    trains = model.optimizer_def.trainable(shapes)
    sizes = jax.tree.map(lambda x, trains: x.size * trains, shapes, trains)
    assert sum(jax.tree.leaves(sizes)) == counts.methods[name], name
    total = sum(x.size for x in jax.tree.leaves(shapes))
    assert total == counts.frozen + counts.methods[name], name


def test_pattern_that_leaves_some_out_is_refused():
  adapters = SHEET.networks[0].methods["adapter"]

  def sheet(trains):
    methods = SHEET.networks[0].methods | {
      "adapter": adapters.model_copy(update={"trains": trains})
    }
    del methods["adapter_self"]
    first = SHEET.networks[0].model_copy(update={"methods": methods})
    return TINY.model_copy(update={"networks": [first, SHEET.networks[1]]})

  with pytest.raises(ValueError, match="Look at what `trains` leaves out"):
    parameters.count(sheet(".*/adapter/down"), "tiny")
  with pytest.raises(ValueError, match=r"adapter: .*'.*adaptor' matches no"):
    parameters.count(sheet(".*adaptor"), "tiny")


@pytest.mark.parametrize(
  ("printed", "expected"),
  [
    ((409_600, 11_135_741_952, "0.00368"), []),
    ((409_601, 11_135_741_953, "0.00368"), ["409,601", "11,135,741,953"]),
    ((409_600, 11_135_741_952, "0.00367"), ["0.00367%, cut and not rounded"]),
    ((409_600, 11_135_741_952, "0.00369"), ["0.00369%"]),
  ],
)
def test_differences_from_what_is_printed(printed, expected):
  ours = (409_600, 11_135_741_952, "0.00368")  # 0.0036782...%
  assert parameters.differences(ours, printed) == expected


def _find(**fields):
  return claims.find(claims.Check(what="x", **fields), COUNTED, NUMBERS)


@pytest.mark.parametrize(
  ("fields", "holds"),
  [
    # 0.0310% and 0.0131%
    ({"low": 0.02, "high": 0.04, "at": ["base", "large"]}, [True, False]),
    ({"low": 0.02, "high": 0.04, "within": 0.01, "at": ["large"]}, [True]),
    ({}, [None] * 5),
    (
      {
        **{"of": "paper.full/scale.model_tuning", "at": ["large"]},
        **{"low": 81.6, "high": 90, "within": 0.4},
      },
      [True],
    ),
  ],
)
def test_range_is_checked_at_each_size(fields, holds):
  found = _find(**{"of": "share.prompt_tuning", **fields})
  assert [x for _, x in found.values()] == holds


def test_difference_of_numbers_of_the_paper():
  tuning, prompt = (f"paper.full/scale.{x}_tuning" for x in ("model", "prompt"))
  # 81.2 - 75.7, read off Figure 1.
  found = _find(of=tuning, minus=prompt, at=["large"])
  assert found == {"large": (pytest.approx(5.5), None)}


@pytest.mark.parametrize(
  ("of", "fields", "message"),
  [
    ("share.prompt", {}, "There is no {}"),
    ("paper.full/scale.prompt", {}, "There is no {}"),
    ("paper.scaling.prompt_tuning", {}, "There is no {}"),
    ("number.prompt_tuning", {}, "There is no {}"),
    ("share.prompt_tuning", {"at": ["3b"]}, "{} has no number for size 3b"),
    ("share.prompt_tuning", {"low": 1.0}, "both low and high, or neither"),
    ("share.prompt_tuning", {"high": 1.0}, "both low and high, or neither"),
  ],
)
def test_unknown_number_or_size_or_half_a_range_is_refused(of, fields, message):
  with pytest.raises(ValueError, match=message.format(of)):
    _find(of=of, **fields)


@pytest.mark.parametrize(
  ("held", "expected"),
  [
    ([True], "right"),
    ([True, True, False], "partly right"),
    ([True, False], "partly right"),
    ([True, False, False], "wrong as stated"),
    ([False], "wrong"),
  ],
)
def test_verdict(held, expected):
  assert claims.verdict(held) == expected
  with pytest.raises(ValueError, match="Expected a verdict, or a check"):
    claims.verdict([])


def test_committed_verdicts():
  """The committed verdicts equal those of a check of the claims by hand."""
  lines = (ROOT / "results/claims.md").read_text().splitlines()
  rows = [line.strip("| ").split(" | ") for line in lines if line[:2] == "| "]
  assert [verdict for *_, verdict in rows[2:]] == [
    "found in no source",
    *["wrong"] * 5,
    "wrong as stated",
    *["partly right"] * 4,
  ]
