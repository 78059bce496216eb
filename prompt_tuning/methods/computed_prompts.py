"""Prompts that are computed from other parameters, and fold to `[P, H]`.

Each method is a formula of named parameters: `FORMULAS` maps their names to it.
The network applies the formula in every step. `fold` applies it once, to the
parameters of a checkpoint, which says nothing but their names and values. After
that a prompt is a prompt: its file, its server and its converters need not know
how it was trained. One file has all methods because they differ in nothing but
the formula and the parameters' shapes and starts.
"""

from collections.abc import Callable, Iterable, Mapping, Sequence
import functools
import inspect
from typing import ClassVar, TypeVar

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
from pydantic import PositiveInt

from prompt_tuning.methods.parameters import parameter
from prompt_tuning.prompt_files import PARAMETER_PATHS
from prompt_tuning.prompts import random_uniform
from prompt_tuning.types import Array, Initializer

_T = TypeVar("_T")
# Logical axes: positions P, the method's own width R, and the model's width H.
_POSITIONS, _INNER, _WIDTH = "prompt", "prompt_inner", "prompt_embed"
# PyTorch's, of the published code.
_LAYER_NORM_EPSILON = 1e-5
_ONES, _ZEROS = nn.initializers.ones, nn.initializers.zeros
# The products are small, and must be the same on every device.
_product = functools.partial(jnp.einsum, precision=jax.lax.Precision.HIGHEST)


def _plain(prompt: Array) -> Array:
  return prompt


def _ultra_low(codes: Array, scale: Array, shift: Array) -> Array:
  """ULPT (Wu et al., 2025), equation 4; codes [P, R], scale and shift [H].

  The random projection, [R, H] from N(0, 1 / R), is frozen. It is the same in
  all runs, so that no file needs it. The authors' code draws it from a uniform
  distribution of another variance; `scale` makes up for that.
  """
  rank, width = codes.shape[1], scale.shape[0]
  # Unlike JAX's, NumPy's numbers do not depend on a flag.
  normal = np.random.default_rng(0).standard_normal((rank, width))
  projection = jnp.asarray(normal / np.sqrt(rank), jnp.float32)
  return _product("pr,rh->ph", codes, projection) * scale[None] + shift[None]


def _low_rank(left: Array, right: Array) -> Array:
  """Decomposed prompt tuning (Xiao et al., 2023): [P, R] times [R, H]."""
  return _product("pr,rh->ph", left, right)


FORMULAS: dict[frozenset[str], Callable[..., Array]] = {
  frozenset(inspect.signature(formula).parameters): formula
  for formula in (_plain, _ultra_low, _low_rank)
}


class ComputedPrompt(nn.Module):
  """A prompt of one of the formulas, whose parameters are in float32.

  Attributes:
    length: Positions, P.
    inner: The method's own width, R.
    parts: Name, logical axes and initialiser of each parameter.
  """

  length: int
  inner: int
  parts: Sequence[tuple[str, Sequence[str], Initializer]]

  replicated_axes: ClassVar[tuple[str, ...]] = (_POSITIONS, _INNER, _WIDTH)

  @nn.compact
  def __call__(self, tokens: Array, embedded: Array) -> Array:
    """Returns the prompt, [P, H]; the arguments are those of `Prompt`."""
    del tokens
    width = embedded.shape[-1]
    sizes = {_POSITIONS: self.length, _INNER: self.inner, _WIDTH: width}
    parts = {
      name: parameter(name, init, [sizes[axis] for axis in axes], axes)
      for name, axes, init in self.parts
    }
    return FORMULAS[frozenset(parts)](**parts).astype(embedded.dtype)


def ultra_low_factory(
  length: PositiveInt, rank: PositiveInt
) -> Callable[..., ComputedPrompt]:
  """Configures ULPT in gin files; see `prompts.prompt_factory`.

  Args:
    length: Positions, P.
    rank: Width of the codes, R.
  """
  return functools.partial(
    ComputedPrompt,
    length=length,
    inner=rank,
    parts=(
      ("codes", (_POSITIONS, _INNER), nn.initializers.normal(1.0)),
      ("scale", (_WIDTH,), _ONES),
      ("shift", (_WIDTH,), _ZEROS),
    ),
  )


def low_rank_factory(
  length: PositiveInt, rank: PositiveInt
) -> Callable[..., ComputedPrompt]:
  """Configures decomposed prompt tuning in gin files.

  Args:
    length: Positions, P.
    rank: Columns of the first matrix, R.
  """
  return functools.partial(
    ComputedPrompt,
    length=length,
    inner=rank,
    parts=(
      ("left", (_POSITIONS, _INNER), random_uniform()),
      ("right", (_INNER, _WIDTH), random_uniform()),
    ),
  )


def find(
  parameters: Mapping[str, _T], paths: Iterable[str] = PARAMETER_PATHS
) -> dict[str, dict[str, _T]]:
  """Finds the parameters that make the prompts of a network.

  Args:
    parameters: Name -> anything, such as the arrays of a checkpoint.
    paths: Names that plain prompts have.

  Returns:
    The name that a plain prompt would have -> name in the formula -> value.
    Prompts that do not fold are left out.
  """
  found = {}
  for path in paths:
    owner = path.removesuffix("prompt")
    parts = {
      name.removeprefix(owner): x
      for name, x in parameters.items()
      if name.startswith(owner)
    }
    if frozenset(parts) in FORMULAS:
      found[path] = parts
  return found


def is_prompt_alone(names: Iterable[str]) -> bool:
  """Returns whether parameters are those of one prompt that folds."""
  names = set(names)
  found = find(dict.fromkeys(names)).values()
  return [len(parts) for parts in found] == [len(names)]


def fold(parts: Mapping[str, Array | np.ndarray]) -> np.ndarray:
  """Computes a prompt, [P, H] float32, from parameters that `find` found."""
  arrays = {name: jnp.asarray(x, jnp.float32) for name, x in parts.items()}
  return np.asarray(FORMULAS[frozenset(parts)](**arrays))
