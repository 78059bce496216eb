"""The places of a network where methods add modules.

`Injections` says which module goes to which place, for one method or several at
once. It determines which parameters train, which of them a base checkpoint
lacks, and how they are laid out on a mesh.
"""

from collections.abc import Callable, Sequence
import dataclasses
import functools
import re

import flax.linen as nn

# A module class, to be called with its `name`.
Factory = Callable[..., nn.Module]

# Field of `Injections` -> the paths of the modules that it adds.
PLACES = {
  "prompt": r".*/prompt",
  "prefix": r".*_prefix",
  "delta": r".*/delta",
  "adapter": r".*/adapter",
  "rescale": r".*rescale",
}


def check_pattern(name: str, pattern: str) -> None:
  """Raises ValueError if a setting is not a regular expression.

  The same as `t5x.configuration.arguments.check_pattern` in runtime/, which
  Google's T5X lacks.
  """
  try:
    re.compile(pattern)
  except re.error as e:
    raise ValueError(
      f"Expected {name} to be a regular expression, got {pattern!r}: {e}."
    ) from e


@dataclasses.dataclass(frozen=True)
class Injections:
  """Modules that parameter-efficient methods add to a T5.

  A field is a module class (from gin, `@module.Class`), another function that
  makes a module, such as the result of `prompts.prompt_factory`, or None. It is
  called once for every place, with `name` alone, inside the module that it
  extends, so the paths of its parameters start with that module's. Some modules
  receive `axes`, the logical axes of the base model's parameter there, so that
  they can be laid out on the mesh in the same way. A class lists its other axes
  in `replicated_axes`. Inside a layer, a module may compute with its parameters
  but not with its path: layers whose parameters have the same names and shapes
  are traced as one.

  Attributes:
    prompt: `(tokens [B, T], embedded [B, T, H]) -> [P, H] or [B, P, H]`, put
      in front of the encoder's input. Path: `encoder/prompt`.
    prefix: `(L, H, N * D) -> L pairs of keys and values, [X, N * D] each`, put
      in front of those of the sequence, layer by layer; every query sees them.
      Paths: `encoder/attention_prefix`, `decoder/self_attention_prefix`,
      `decoder/encoder_decoder_attention_prefix`.
    delta: `(inputs [B, T, in], features, axes) -> [B, T, features]`, added to
      a kernel's product. Paths:
      `*/{query,key,value,out,wi_0,wi_1,wo}/delta`,
      `decoder/logits_dense/delta`.
    adapter: `[B, T, H] -> [B, T, H]`, applied after the last kernel of an
      attention or MLP block. Paths: `*attention/adapter`, `*/mlp/adapter`.
    rescale: `([B, T, features], axes) -> [B, T, features]`, of keys and values
      before they are split into heads, and of the first branch of an MLP.
      Paths: `*attention/{key,value}_rescale`, `*/mlp/rescale`.
    prefix_targets: A regular expression that must match the whole path of a
      prefix, for example "encoder/.*". Other places get no prefix.
    delta_targets: The same for a delta, for example ".*/(query|value)/delta".
    adapter_targets: The same for an adapter.
    rescale_targets: The same for a rescaling.
  """

  prompt: Factory | None = None
  prefix: Factory | None = None
  delta: Factory | None = None
  adapter: Factory | None = None
  rescale: Factory | None = None
  prefix_targets: str = ".*"
  delta_targets: str = ".*"
  adapter_targets: str = ".*"
  rescale_targets: str = ".*"

  def __post_init__(self):
    for name, value in vars(self).items():
      if name.endswith("_targets"):
        check_pattern(name, value)

  @property
  def used(self) -> dict[str, Factory]:
    """The fields that are not None: name -> module class."""
    fields = {place: getattr(self, place) for place in PLACES}
    return {place: x for place, x in fields.items() if x is not None}

  def build(self, place: str, owner: nn.Module, name: str) -> nn.Module | None:
    """Makes a module in the compact method of `owner`, if its targets match.

    Args:
      place: The name of a field.
      owner: The module that it extends.
      name: Its name in `owner`.

    Returns:
      The module, or None.
    """
    factory: Factory | None = getattr(self, place)
    targets = getattr(self, f"{place}_targets", ".*")
    path = "/".join((*owner.path, name))
    if factory is None or not re.fullmatch(targets, path):
      return None
    return factory(name=name)


def parameter_patterns(injections: Injections) -> list[str]:
  """Returns regular expressions for the paths of all parameters of methods.

  Args:
    injections: The methods.

  Raises:
    ValueError: if there is no method.
  """
  if not injections.used:
    raise ValueError(
      "Expected a method that adds parameters to the model, got none. Give its "
      "file, such as --gin_file=gin/methods/prompt_tuning.gin."
    )
  return [f"{PLACES[place]}/.*" for place in injections.used]


def assignment_map(injections: Injections) -> list[tuple[str, None]]:
  """Returns T5X's `assignment_map` for a base checkpoint without methods.

  Args:
    injections: The methods. Their parameters come from initialisers.
  """
  return [(f"^{PLACES[place]}/.*$", None) for place in injections.used]


def has_initialised(
  assignment_map: Sequence[tuple[str, str | None]] | None,
) -> bool:
  """Returns whether an `assignment_map` leaves anything to initialisers."""
  return any(source is None for _, source in assignment_map or ())


def axis_rules(injections: Injections) -> list[tuple[str, None]]:
  """Returns rules that replicate the logical axes that methods name.

  Args:
    injections: The methods.

  Returns:
    `additional_rules` of `t5x.partitioning.standard_logical_axis_rules`.
  """
  rules = {}
  for factory in injections.used.values():
    while isinstance(factory, functools.partial):
      factory = factory.func
    rules |= dict.fromkeys(getattr(factory, "replicated_axes", ()))
  return list(rules.items())
