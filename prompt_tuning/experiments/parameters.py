"""How many parameters each method trains, from the shapes of the models."""

from collections.abc import Iterator, Mapping, Sequence
import dataclasses
import math
import re
import shlex

import jax
import jax.numpy as jnp
from matplotlib.figure import Figure
import pydantic

from prompt_tuning import prompts
from prompt_tuning.experiments import figures
from prompt_tuning.experiments.toml_files import Strict
from prompt_tuning.models.t5 import network
from prompt_tuning.text_tables import Table, csv_text
from t5x import gin_utils

# What a printed line says: what trains, the total, and the percentage.
Printed = tuple[int, int, str]
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
    bindings: What it is told.
    trains: A regular expression for the paths of what it trains.
  """

  label: str
  gin_files: list[str]
  bindings: list[str] = pydantic.Field(default_factory=list)
  trains: str


class Network(Strict):
  """Methods that stand side by side in one network, to be counted at once.

  Attributes:
    gin_files: Behind the model's.
    bindings: What they are told.
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
  """What to count.

  Attributes:
    title: Of the page.
    about: How it is counted. Markdown.
    prompt_lengths: Positions.
    drawn: The methods of the figure.
    sizes: Name -> size, in order.
    networks: All methods.
    paper: What the paper prints.
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
    frozen: The model's.
    prompts: Length -> of a prompt.
    methods: Name -> what the method trains.
  """

  frozen: int
  prompts: Mapping[int, int]
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
  return Counts(
    frozen=frozen.pop(),
    prompts={n: _prompt_size(n, width) for n in sheet.prompt_lengths},
    methods=methods,
  )


def _prompt_size(length: int, width: int) -> int:
  variables = jax.eval_shape(
    prompts.Prompt(length).init,
    jax.random.key(0),
    jax.ShapeDtypeStruct((1, 1), jnp.int32),
    jax.ShapeDtypeStruct((1, 1, width), jnp.float32),
  )
  return variables["params"]["prompt"].size


def line(counts: Counts, length: int) -> Printed:
  """Returns the line of the paper's Table 4 for a prompt."""
  trainable = counts.prompts[length]
  total = counts.frozen + trainable
  return trainable, total, f"{100 * trainable / total:.5f}"


def differences(ours: Printed, printed: Printed) -> list[str]:
  """Says where a printed line is not what was counted."""
  found = [
    f"{p:,}" for x, p in zip(ours[:2], printed[:2], strict=True) if x != p
  ]
  digits = 10**7 * ours[0] // ours[1]
  if printed[2] == ours[2]:
    return found
  if printed[2] == f"{digits // 10**5}.{digits % 10**5:05}":
    return [*found, f"{printed[2]}%{_CUT}"]
  return [*found, f"{printed[2]}%"]


def length_text(sheet: ParameterSheet, counted: Mapping[str, Counts]) -> Table:
  """Writes the paper's Table 4, and where it prints something else."""
  rows = []
  for size, counts in counted.items():
    for length in counts.prompts:
      ours = line(counts, length)
      printed = sheet.paper.printed[size][length]
      rows.append(
        [
          *(sheet.sizes[size].label, str(length)),
          *(f"{ours[0]:,}", f"{ours[1]:,}", f"{ours[2]}%"),
          "; ".join(differences(ours, printed)) or "the same",
        ]
      )
  header = ["Size", "Length", "Trainable", "Total", "Share"]
  return Table([*header, "The paper prints"], rows)


def method_text(sheet: ParameterSheet, counted: Mapping[str, Counts]) -> Table:
  """Writes what each method trains, the fewest first."""

  def cells(values: Sequence[int]) -> list[str]:
    return [
      f"{n:,} ({percent(100 * n / counts.frozen)})"
      for n, counts in zip(values, counted.values(), strict=True)
    ]

  rows = {
    method.label: [counts.methods[name] for counts in counted.values()]
    for name, method in sheet.methods().items()
  }
  rows["Model tuning"] = [counts.frozen for counts in counted.values()]
  return Table(
    ["Method", *(sheet.sizes[size].label for size in counted)],
    [
      [label, *cells(values)]
      for label, values in sorted(rows.items(), key=lambda x: sum(x[1]))
    ],
  )


def percent(value: float) -> str:
  """Writes a percentage with three significant digits."""
  return f"{value:#.3g}".rstrip(".") + "%"


def page(
  sheet: ParameterSheet, counted: Mapping[str, Counts]
) -> dict[str, bytes]:
  """Makes the files of the page: name -> content."""
  texts = {
    f"Prompts by length: the paper's {sheet.paper.source}": length_text(
      sheet, counted
    ),
    "Methods": method_text(sheet, counted),
  }
  files = {
    "parameters.md": "\n".join(_markdown(sheet, counted, texts)),
    "parameters.tex": "\n".join(
      f"% {title}\n{text.latex()}" for title, text in texts.items()
    ),
    "parameters.csv": csv_text(
      ["method", "size", "prompt_length", "trainable", "frozen"],
      _csv_rows(counted),
    ),
  }
  drawn = figures.render(_figure(sheet, counted))
  return {
    **{name: text.encode() for name, text in files.items()},
    **{f"parameters.{suffix}": content for suffix, content in drawn.items()},
  }


def _figure(sheet: ParameterSheet, counted: Mapping[str, Counts]) -> Figure:
  methods = sheet.methods()
  shares = {"model_tuning": [100.0] * len(counted)}
  labels = {"model_tuning": "Model tuning"}
  for name in sheet.drawn:
    labels[name] = methods[name].label
    shares[name] = [
      100 * counts.methods[name] / counts.frozen for counts in counted.values()
    ]
  names: dict[float, str] = {
    counts.frozen: sheet.sizes[size].label for size, counts in counted.items()
  }
  return figures.of_shares(sheet.title, names, shares, labels)


def _difference_note(
  sheet: ParameterSheet, counted: Mapping[str, Counts]
) -> str:
  found = [
    difference
    for size, counts in counted.items()
    for length in counts.prompts
    for difference in differences(
      line(counts, length), sheet.paper.printed[size][length]
    )
  ]
  cut = sum(x.endswith(_CUT) for x in found)
  return (
    f"Of the paper's {3 * sum(len(x.prompts) for x in counted.values())} "
    f"numbers, {len(found) - cut} are misprints and {cut} are cut off where "
    "they should be rounded."
  )


def _markdown(
  sheet: ParameterSheet,
  counted: Mapping[str, Counts],
  texts: Mapping[str, Table],
) -> Iterator[str]:
  yield f"# {sheet.title}\n\n{sheet.about.strip()}\n"
  notes = [
    "The share is of all parameters, the prompt's included. "
    f"{_difference_note(sheet, counted)}",
    "In brackets, the share of the frozen model's parameters.",
  ]
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


def _csv_rows(counted: Mapping[str, Counts]) -> Iterator[list[object]]:
  for size, counts in counted.items():
    for length, n in counts.prompts.items():
      yield ["prompt_tuning", size, length, n, counts.frozen]
    for method, n in counts.methods.items():
      if method != "prompt_tuning":
        yield [method, size, "", n, counts.frozen]
