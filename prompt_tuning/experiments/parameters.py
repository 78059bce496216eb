"""Counts of the parameters that each method trains, from the models' shapes."""

from collections.abc import Iterator, Mapping
import dataclasses
import math
import re
import shlex

import pandas as pd
import pydantic

from prompt_tuning.experiments import figures
from prompt_tuning.experiments.text_tables import Table
from prompt_tuning.experiments.toml_files import Strict
from prompt_tuning.models.t5 import network
from t5x import gin_utils

# A printed line: trainable parameters, all parameters, and the percentage.
Printed = tuple[int, int, str]
_MODEL_TUNING = "model_tuning"
_CUT = ", cut and not rounded"


class Size(Strict):
  """A size of model: its name in tables, and its gin file."""

  label: str
  gin_file: str


class Method(Strict):
  """A method.

  Attributes:
    label: For tables.
    gin_files: Of the method alone, behind the model's.
    bindings: Its gin bindings.
    trains: A regular expression for the paths of the parameters it trains.
  """

  label: str
  gin_files: list[str]
  bindings: list[str] = pydantic.Field(default_factory=list)
  trains: str


class Network(Strict):
  """Methods side by side in one network, to be counted at once.

  Attributes:
    gin_files: Behind the model's.
    bindings: Their gin bindings.
    methods: Name -> method.
  """

  gin_files: list[str]
  bindings: list[str]
  methods: dict[str, Method]


class Paper(Strict):
  """The paper's numbers: size -> length of prompt -> line."""

  source: str
  printed: dict[str, dict[int, Printed]]


class ParameterSheet(Strict):
  """The models and methods to count.

  Attributes:
    title: Of the page.
    about: The way of counting. Markdown.
    prompt_lengths: Positions.
    drawn: The methods of the figure.
    sizes: Name -> size, in order.
    networks: All methods.
    paper: The paper's numbers.
  """

  title: str
  about: str
  prompt_lengths: list[int]
  drawn: list[str]
  sizes: dict[str, Size]
  networks: list[Network]
  paper: Paper

  def methods(self) -> dict[str, Method]:
    return {
      k: x for network in self.networks for k, x in network.methods.items()
    }


@dataclasses.dataclass(frozen=True)
class Counts:
  """Numbers of parameters, for one size of model.

  Attributes:
    frozen: Parameters of the model.
    width: Of the model: parameters of each position of a prompt.
    methods: Name -> parameters that the method trains.
  """

  frozen: int
  width: int
  methods: Mapping[str, int]


def count(sheet: ParameterSheet, size: str) -> Counts:
  """Counts for one size.

  Raises:
    ValueError: if the networks disagree on the frozen model, which means that
      a method's pattern misses some of its parameters, or if one trains none.
  """
  frozen, methods, width = set(), {}, 0
  for net in sheet.networks:
    with gin_utils.bound_arguments(
      network.Transformer,
      [sheet.sizes[size].gin_file, *net.gin_files],
      net.bindings,
    ) as arguments:
      module = network.Transformer(**arguments)
      width = module.config.emb_dim
      shapes = network.parameter_shapes(module)
    found = {path: math.prod(shape) for path, shape in shapes.items()}
    for name, method in net.methods.items():
      sizes = [n for k, n in found.items() if re.fullmatch(method.trains, k)]
      if not sizes:
        raise ValueError(
          f"{name}: trains = {method.trains!r} matches no parameter. There is "
          f"{', '.join(found)}."
        )
      methods[name] = sum(sizes)
    added = "|".join(method.trains for method in net.methods.values())
    frozen.add(sum(n for k, n in found.items() if not re.fullmatch(added, k)))
  if len(frozen) != 1:
    raise ValueError(
      f"The networks of {size} have {sorted(frozen)} parameters that no method "
      "trains; expected the same of all. Look at what `trains` leaves out."
    )
  return Counts(frozen.pop(), width, methods)


def prompt_lines(
  sheet: ParameterSheet, counted: Mapping[str, Counts]
) -> pd.DataFrame:
  """Returns the paper's Table 4 as it should be, and where it differs.

  Returns:
    Size, length, trainable, total, share (in percent, a text) and differences,
    a list of texts, of each prompt.
  """
  rows = []
  for size, counts in counted.items():
    for length in sheet.prompt_lengths:
      trainable = length * counts.width
      total = counts.frozen + trainable
      line = (trainable, total, f"{100 * trainable / total:.5f}")
      wrong = differences(line, sheet.paper.printed[size][length])
      rows.append((size, length, *line, wrong))
  names = ["size", "length", "trainable", "total", "share", "differences"]
  return pd.DataFrame(rows, columns=names)


def differences(ours: Printed, printed: Printed) -> list[str]:
  """Returns the printed numbers that are not as counted."""
  found = [
    f"{p:,}" for x, p in zip(ours[:2], printed[:2], strict=True) if x != p
  ]
  digits = 10**7 * ours[0] // ours[1]
  if printed[2] == ours[2]:
    return found
  if printed[2] == f"{digits // 10**5}.{digits % 10**5:05}":
    return [*found, f"{printed[2]}%{_CUT}"]
  return [*found, f"{printed[2]}%"]


def percent(value: float) -> str:
  """Writes a percentage with three significant digits."""
  return f"{value:#.3g}".rstrip(".") + "%"


def files(
  sheet: ParameterSheet, counted: Mapping[str, Counts]
) -> dict[str, bytes]:
  """Makes the files of the page: name -> content."""
  labels = {size: sheet.sizes[size].label for size in counted}
  frozen = pd.Series({size: x.frozen for size, x in counted.items()})
  trained = pd.DataFrame({size: x.methods for size, x in counted.items()})
  trained.loc[_MODEL_TUNING] = frozen
  names = {name: x.label for name, x in sheet.methods().items()}
  names[_MODEL_TUNING] = "Model tuning"
  shares = 100 * trained / frozen
  lines = prompt_lines(sheet, counted)
  texts = {
    f"Prompts by length: the paper's {sheet.paper.source}": Table(
      ["Size", "Length", "Trainable", "Total", "Share", "The paper prints"],
      [
        [
          *(labels[x.size], str(x.length)),
          *(f"{x.trainable:,}", f"{x.total:,}", f"{x.share}%"),
          "; ".join(x.differences) or "the same",
        ]
        for x in lines.itertuples()
      ],
    ),
    "Methods": Table(
      ["Method", *labels.values()],
      [
        [
          names[str(name)],
          *(f"{n:,} ({percent(shares.loc[name, k])})" for k, n in row.items()),
        ]
        for name, row in trained.sort_values(
          by=list(labels), key=lambda x: trained.sum(axis=1), kind="stable"
        ).iterrows()
      ],
    ),
  }
  drawn = shares.loc[[_MODEL_TUNING, *sheet.drawn]].T
  drawn.columns = [(name, names[name]) for name in drawn.columns]
  drawn.index = pd.MultiIndex.from_arrays([labels.values(), frozen])
  figure = figures.draw_shares(drawn, sheet.title)
  notes = [
    "The share is of all parameters, the prompt's included. "
    f"{_misprints(lines)}",
    "In brackets, the share of the frozen model's parameters.",
  ]
  latex = (f"% {title}\n{text.latex()}" for title, text in texts.items())
  return {
    "parameters.md": "\n".join(_markdown(sheet, texts, notes)).encode(),
    "parameters.tex": "\n".join(latex).encode(),
    "parameters.csv": _csv_text(lines, trained, frozen).encode(),
    **{f"parameters.{k}": x for k, x in figures.render(figure).items()},
  }


def _misprints(lines: pd.DataFrame) -> str:
  found = lines["differences"].explode().dropna()
  cut = found.str.endswith(_CUT).sum()
  return (
    f"Of the paper's {3 * len(lines)} numbers, {len(found) - cut} are "
    f"misprints and {cut} are cut off where they should be rounded."
  )


def _markdown(
  sheet: ParameterSheet, texts: Mapping[str, Table], notes: list[str]
) -> Iterator[str]:
  yield f"# {sheet.title}\n\n{sheet.about.strip()}\n"
  for (title, text), note in zip(texts.items(), notes, strict=True):
    yield f"## {title}\n\n{note}\n\n{text.markdown()}"
  yield f"![{sheet.title}](parameters.svg)\n"
  yield "## How to run each\n"
  for method in sheet.methods().values():
    flags = [f"--gin_file={x}" for x in method.gin_files]
    command = shlex.join([*flags, *map(_flag, method.bindings)])
    yield f"* {method.label}: `{command}`"
  yield ""


def _flag(binding: str) -> str:
  name, _, value = binding.partition(" = ")
  value = value.replace("'", '"')
  return f"--gin.{name}={value}"


def _csv_text(
  lines: pd.DataFrame, trained: pd.DataFrame, frozen: pd.Series
) -> str:
  """Writes the prompts by length, then the other methods, of each size."""
  prompts = lines.assign(method="prompt_tuning")
  others = (
    trained.drop(index=["prompt_tuning", _MODEL_TUNING])
    .rename_axis("method")
    .reset_index()
    .melt("method", var_name="size", value_name="trainable")
  )
  found = pd.concat([prompts, others])
  found = found.sort_values(
    "size", key=lambda x: x.map(list(frozen.index).index), kind="stable"
  )
  table = pd.DataFrame(
    {
      "method": found["method"],
      "size": found["size"],
      "prompt_length": found["length"].astype("Int64"),
      "trainable": found["trainable"],
      "frozen": frozen.loc[found["size"]].to_numpy(),
    }
  )
  return table.to_csv(index=False, lineterminator="\n")
