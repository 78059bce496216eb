"""Counts of parameters: the paper's, to the digit, and how they are made."""

import csv
import pathlib

import gin
import jax
import pandas as pd
import pytest
import tiny

from prompt_tuning.experiments import figures, parameters, toml_files
from t5x import gin_utils, models

ROOT = pathlib.Path(__file__).parents[2]
SHEET = toml_files.parse(
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
FROZEN = {
  "small": 76_961_152,
  "base": 247_577_856,
  "large": 783_150_080,
  "xl": 2_849_757_184,
  "xxl": 11_135_332_352,
}
WIDTHS = {"small": 512, "base": 768, "large": 1024, "xl": 2048, "xxl": 4096}
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


@pytest.fixture(autouse=True)
def _no_configuration():
  yield
  gin.clear_config()


def test_committed_counts_are_the_papers_and_the_formulas():
  """What `tabulate.py --check` compares with the models."""
  text = (ROOT / "results/tables/parameters.csv").read_text()
  found = {
    (row["method"], row["size"], row["prompt_length"]): (
      int(row["trainable"]),
      int(row["frozen"]),
    )
    for row in csv.DictReader(text.splitlines())
  }
  expected = {
    ("prompt_tuning", size, str(length)): (length * width, FROZEN[size])
    for size, width in WIDTHS.items()
    for length in (1, 5, 20, 50, 100, 150)
  }
  for method, counts in METHODS.items():
    for size, count in zip(("base", "large", "xl", "xxl"), counts, strict=True):
      expected[method, size, ""] = (count, FROZEN[size])
  assert found | expected == found


def test_counts_of_a_model():
  counts = parameters.count(SHEET, "small")
  assert counts.frozen == FROZEN["small"]
  assert counts.width == 512
  assert counts.methods["prompt_tuning"] == 512 * 100
  # Small is where the heads' width, 384, is not the model's, 512.
  assert counts.methods["lora"] == 3 * 8 * 2 * 8 * (512 + 384)
  assert counts.methods["prefix_encoder"] == 100 * 2 * 384 * 8
  assert counts.methods["multitask_prompt"] == (100 + 8) * 512


def test_method_alone_trains_what_is_counted_for_it():
  counts = parameters.count(TINY, "tiny")
  for name, method in SHEET.methods().items():
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


def test_page_and_figure():
  counted = {
    size: parameters.Counts(
      FROZEN[size],
      WIDTHS[size],
      {name: 1000 + i for i, name in enumerate(SHEET.methods())},
    )
    for size in SHEET.sizes
  }
  files = parameters.files(SHEET, counted)
  assert set(files) == {
    f"parameters.{end}" for end in ("md", "tex", "csv", "svg", "png")
  }
  text = files["parameters.md"].decode()
  assert "90 numbers, 4 are misprints and 2 are cut off" in text
  assert "| Large | 100 | 102,400 | 783,252,480 | 0.01307% | 0.01907% |" in text
  assert (
    "| Small | 20 | 10,240 | 76,971,392 | 0.01330% | 10,420; 76,971,572 |"
    in text
  )
  assert "1,000 (0.00130%)" in text
  assert (
    "`--gin_file=gin/methods/prefix_tuning.gin --gin.PREFIX_HIDDEN_DIM=512`"
    in text
  )


def test_figure_shows_the_shares():
  shares = pd.DataFrame(
    {("ia3", "IA3"): [0.1, 0.02]},
    index=pd.MultiIndex.from_arrays(
      [["S", "XXL"], [77_000_000, 11_000_000_000]]
    ),
  )
  figure = figures.draw_shares(shares, "T")
  (line,) = figure.axes[0].lines
  assert list(line.get_xdata()) == [77e6, 11e9]
  assert list(line.get_ydata()) == [0.1, 0.02]
  figure.canvas.draw()
  labels = [tick.get_text() for tick in figure.axes[0].get_yticklabels()]
  assert {"0.01%", "0.1%"} <= set(labels)


def test_percent_has_three_digits():
  assert parameters.percent(0.031) == "0.0310%"
  assert parameters.percent(100.0) == "100%"
