"""Counts of the parameters that each method trains, from the models' shapes."""

from collections.abc import Iterator, Mapping
import dataclasses
import math
import re
import shlex

import pandas as pd
import pydantic

from prompt_tuning.experiments import figures, pages
from prompt_tuning.experiments.cells import Strict
from prompt_tuning.experiments.text_tables import Table
from prompt_tuning.models.network import parameter_shapes
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
    label: Its name in tables.
    gin_files: The method's gin files, which follow the model's.
    bindings: Its gin bindings.
    trains: A regular expression for the paths of the parameters it trains.
  """

  label: str
  gin_files: list[str]
  bindings: list[str] = pydantic.Field(default_factory=list)
  trains: str


class Network(Strict):
  """Methods side by side in one network, which are counted together.

  Attributes:
    gin_files: The methods' gin files, which follow the model's.
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
      shapes = parameter_shapes(module)
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


def differences(ours: Printed, printed: Printed) -> list[str]:
  """Returns the printed numbers that differ from the counts."""
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
  names = {_MODEL_TUNING: "Model tuning"}
  names |= {name: x.label for name, x in sheet.methods().items()}
  trained = {
    name: [x.methods.get(name, x.frozen) for x in counted.values()]
    for name in names
  }
  frozen = [x.frozen for x in counted.values()]
  shares = {
    name: [100 * n / total for n, total in zip(some, frozen, strict=True)]
    for name, some in trained.items()
  }
  prompts, wrong = [], []
  for size, counts in counted.items():
    for length in sheet.prompt_lengths:
      n = length * counts.width
      total = counts.frozen + n
      line = (n, total, f"{100 * n / total:.5f}")
      found = differences(line, sheet.paper.printed[size][length])
      wrong += found
      note = "; ".join(found) or "the same"
      texts = (f"{n:,}", f"{total:,}", f"{line[2]}%", note)
      prompts.append([labels[size], str(length), *texts])
  methods = [
    [
      names[name],
      *(
        f"{n:,} ({percent(share)})"
        for n, share in zip(trained[name], shares[name], strict=True)
      ),
    ]
    for name in sorted(names, key=lambda x: sum(trained[x]))
  ]
  header = ["Size", "Length", "Trainable", "Total", "Share", "The paper prints"]
  title = f"Prompts by length: the paper's {sheet.paper.source}"
  texts = {
    title: Table(header, prompts),
    "Methods": Table(["Method", *labels.values()], methods),
  }
  cut = sum(x.endswith(_CUT) for x in wrong)
  notes = [
    "The share is of all parameters, the prompt's included. Of the paper's "
    f"{3 * len(prompts)} numbers, {len(wrong) - cut} are misprints and {cut} "
    "are cut off where they should be rounded.",
    "In brackets, the share of the frozen model's parameters.",
  ]
  drawn = [_MODEL_TUNING, *sheet.drawn]
  figure = figures.draw_shares(
    dict(zip(frozen, labels.values(), strict=True)),
    {name: (names[name], shares[name]) for name in drawn},
    sheet.title,
  )
  return {
    "parameters.md": "\n".join(_markdown(sheet, texts, notes)).encode(),
    "parameters.tex": pages.latex(texts).encode(),
    "parameters.csv": _csv_text(sheet, counted).encode(),
    **{f"parameters.{k}": x for k, x in figures.render(figure).items()},
  }


def _markdown(
  sheet: ParameterSheet, texts: Mapping[str, Table], notes: list[str]
) -> Iterator[str]:
  yield f"# {sheet.title}\n\n{sheet.about.strip()}\n"
  for (title, text), note in zip(texts.items(), notes, strict=True):
    yield f"## {title}\n\n{note}\n\n{text.markdown()}"
  yield f"![{sheet.title}](parameters.svg)\n"
  yield "## How to run each\n"
  for method in sheet.methods().values():
    bindings = (x.replace(" = ", "=", 1) for x in method.bindings)
    flags = [f"--gin_file={x}" for x in method.gin_files]
    flags += ["--gin." + x.replace("'", '"') for x in bindings]
    yield f"* {method.label}: `{shlex.join(flags)}`"
  yield ""


def _csv_text(sheet: ParameterSheet, counted: Mapping[str, Counts]) -> str:
  """Writes the prompts by length, then the other methods, of each size."""
  lines = []
  for size, counts in counted.items():
    prompts = {
      ("prompt_tuning", x): x * counts.width for x in sheet.prompt_lengths
    }
    others = {
      (x, ""): n for x, n in counts.methods.items() if x != "prompt_tuning"
    }
    for (method, length), n in (prompts | others).items():
      lines.append((method, size, length, n, counts.frozen))
  header = ["method", "size", "prompt_length", "trainable", "frozen"]
  frame = pd.DataFrame(lines, columns=header, dtype=object)
  return frame.to_csv(index=False, lineterminator="\n")
