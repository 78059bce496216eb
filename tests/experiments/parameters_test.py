"""Counts of parameters, to the digit, and claims about them."""

import pathlib

import jax
import pandas as pd
import pytest
import tiny

from prompt_tuning.experiments import (
  claims,
  generated_files,
  parameters,
  sheets,
)
from t5x import gin_utils, models

ROOT = pathlib.Path(__file__).parents[2]
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
# Of Base to XXL, by formulas that were worked out apart from this code.
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
  found = {}
  frame = pd.read_csv(ROOT / "results/tables/parameters.csv")
  for size, own in frame.groupby("size", sort=False):
    (first, *_) = own.itertuples()
    width = first.trainable // int(first.prompt_length)
    others = own[own["prompt_length"].isna()].set_index("method")["trainable"]
    methods = {"prompt_tuning": 100 * width, **others.to_dict()}
    found[size] = parameters.Counts(first.frozen, width, methods)
  return found


COUNTED = _counted()
SHEETS = sheets.load_all(ROOT / "configs")


def test_committed_counts_are_those_of_formulas():
  """`tabulate --check` compares them with the models."""
  for method, counts in METHODS.items():
    sizes = zip(("base", "large", "xl", "xxl"), counts, strict=True)
    assert all(COUNTED[x].methods[method] == n for x, n in sizes)


def test_counts_make_the_committed_files():
  """Tables, the figure, and the verdicts on claims."""
  files = parameters.files(SHEET, COUNTED)
  assert len(files) == 5
  folder = ROOT / generated_files.TABLES
  assert generated_files.differences(files, folder) == ([], [])
  page = sheets.parse(ROOT / "configs/claims.toml", claims.Claims)
  made = claims.page(page, SHEET, COUNTED, SHEETS)
  assert made == (ROOT / "results/claims.md").read_bytes()


@pytest.mark.parametrize("every", [4, pytest.param(1, marks=pytest.mark.slow)])
def test_what_a_method_alone_trains_is_what_is_counted(every):
  """The rest is frozen. The optimizer chooses what trains, not the pattern."""
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


@pytest.mark.parametrize(
  ("trains", "message"),
  [
    (".*/adapter/down", "Look at what `trains` leaves out"),
    (".*adaptor", r"adapter: .*'.*adaptor' matches no"),
  ],
)
def test_pattern_that_leaves_some_out_is_refused(trains, message):
  sheet = TINY.model_copy(deep=True)
  methods = sheet.networks[0].methods
  del methods["adapter_self"]
  methods["adapter"].trains = trains
  with pytest.raises(ValueError, match=message):
    parameters.count(sheet, "tiny")


@pytest.mark.parametrize(
  ("of", "fields", "message"),
  [
    ("paper.scale.prompt", {}, "There is no paper.scale.prompt"),
    ("share.lora", {"at": ["3b"]}, "share.lora has no number for size 3b"),
    ("share.lora", {"low": 1.0}, "both low and high, or neither"),
    ("share.lora", {"high": 1.0}, "both low and high, or neither"),
  ],
)
def test_unknown_number_or_size_or_half_a_range_is_refused(of, fields, message):
  numbers, _ = claims.collect(SHEET, COUNTED, SHEETS)
  with pytest.raises(ValueError, match=message):
    claims.find(claims.Check(what="x", of=of, **fields), COUNTED, numbers)


def test_verdict():
  """The committed page has those of claims that do not hold."""
  assert claims.verdict([True]) == "right"
  assert claims.verdict([True, False]) == "partly right"  # From half on.
  with pytest.raises(ValueError, match="Expected a verdict, or a check"):
    claims.verdict([])
