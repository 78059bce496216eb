"""Prompts that are computed from other parameters, and fold to `[P, H]`.

Each method is a formula of named parameters: `FORMULAS` maps their names to it.
The network applies the formula in every step. `fold` applies it once, to the
parameters of a checkpoint, of which it needs only names and values. After that,
files, servers and converters need not know how the prompt was trained. One
module has all methods because they differ only in the formula and in the shapes
and initial values of the parameters.
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

from prompt_tuning.methods.parameters import KERNEL_INIT, parameter
from prompt_tuning.prompt_files import PARAMETER_PATHS
from prompt_tuning.prompts import random_uniform
from prompt_tuning.types import Array, DType, Initializer, PRNGKey

_T = TypeVar("_T")
# Logical axes: positions P, the method's own width R, and the model's width H.
_POSITIONS, _INNER, _WIDTH = "prompt", "prompt_inner", "prompt_embed"
# R embeddings in one row, R * H.
_ROW = "prompt_row"
_ONES, _ZEROS = nn.initializers.ones, nn.initializers.zeros
# The products are small, and must be the same on every device.
_product = functools.partial(jnp.einsum, precision=jax.lax.Precision.HIGHEST)


def _plain(prompt: Array) -> Array:
  return prompt


def _ultra_low(codes: Array, scale: Array, shift: Array) -> Array:
  """ULPT (Wu et al., 2025); codes [P, R], scale and shift [H].

  The random projection, [R, H] from N(0, 1 / R), is frozen. It is the same in
  all runs, so no file has to store it. The authors' code draws it from a
  uniform distribution of another variance; `scale` makes up for that.
  """
  rank, width = codes.shape[1], scale.shape[0]
  # Unlike JAX's, NumPy's numbers do not depend on a flag.
  normal = np.random.default_rng(0).standard_normal((rank, width))
  projection = jnp.asarray(normal / np.sqrt(rank), jnp.float32)
  return _product("pr,rh->ph", codes, projection) * scale[None] + shift[None]


def _low_rank(left: Array, right: Array) -> Array:
  """Decomposed prompt tuning (Xiao et al., 2023): [P, R] times [R, H]."""
  return _product("pr,rh->ph", left, right)


def _residual(
  base: Array,
  down: Array,
  down_bias: Array,
  up: Array,
  up_bias: Array,
  norm_scale: Array,
  norm_shift: Array,
) -> Array:
  """Residual prompt tuning (Razdaibiedina et al., 2023), with a shared MLP.

  Args:
    base: [P, H]
    down: [H, R]
    down_bias: [R]
    up: [R, H]
    up_bias: [H]
    norm_scale: [H] Of the layer norm after the MLP.
    norm_shift: [H]
  """
  hidden = _product("ph,hr->pr", base, down) + down_bias[None]
  output = _product("pr,rh->ph", nn.relu(hidden), up) + up_bias[None]
  normed = jax.nn.standardize(output)  # With PyTorch's epsilon.
  return base + normed * norm_scale[None] + norm_shift[None]


def _superposition(weights: Array, tokens: Array) -> Array:
  """SuperPos (Sadraei Javaheri et al., 2024): `p_i = (E + dE_i) p'_i`.

  The weights, [P, R], are `p'`. The tokens, [P, R * H], are `E + dE_i` in one
  parameter: each position has its own copy of the sampled embeddings. It is a
  matrix because Adafactor takes no more dimensions.
  """
  copies = tokens.reshape(*weights.shape, -1)
  return _product("pr,prh->ph", weights, copies)


def _rank_one(shared: Array, positions: Array, features: Array) -> Array:
  """MPT (Wang et al., 2023): [P, H] times the outer product of [P] and [H]."""
  return shared * positions[:, None] * features[None]


FORMULAS: dict[frozenset[str], Callable[..., Array]] = {
  frozenset(inspect.signature(formula).parameters): formula
  for formula in (
    _plain,
    _ultra_low,
    _low_rank,
    _residual,
    _superposition,
    _rank_one,
  )
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

  replicated_axes: ClassVar = (_POSITIONS, _INNER, _WIDTH, _ROW)

  @nn.compact
  def __call__(self, tokens: Array, embedded: Array) -> Array:
    """Returns the prompt, [P, H]; the arguments are those of `Prompt`."""
    del tokens
    width = embedded.shape[-1]
    sizes = {_POSITIONS: self.length, _INNER: self.inner, _WIDTH: width}
    sizes[_ROW] = self.inner * width
    parts = {
      name: parameter(name, init, [sizes[axis] for axis in axes], axes)
      for name, axes, init in self.parts
    }
    return FORMULAS[frozenset(parts)](**parts).astype(embedded.dtype)


def ultra_low(
  length: PositiveInt, rank: PositiveInt
) -> Callable[..., ComputedPrompt]:
  """Configures ULPT in gin files; see `prompts.prompt_factory`.

  Args:
    length: Positions, P.
    rank: Width of the codes, R.
  """
  parts = (
    ("codes", (_POSITIONS, _INNER), nn.initializers.normal(1.0)),
    ("scale", (_WIDTH,), _ONES),
    ("shift", (_WIDTH,), _ZEROS),
  )
  return functools.partial(
    ComputedPrompt, length=length, inner=rank, parts=parts
  )


def low_rank(
  length: PositiveInt, rank: PositiveInt
) -> Callable[..., ComputedPrompt]:
  """Configures decomposed prompt tuning in gin files.

  Args:
    length: Positions, P.
    rank: Columns of the first matrix, R.
  """
  parts = (
    ("left", (_POSITIONS, _INNER), random_uniform()),
    ("right", (_INNER, _WIDTH), random_uniform()),
  )
  return functools.partial(
    ComputedPrompt, length=length, inner=rank, parts=parts
  )


def residual(
  length: PositiveInt, bottleneck: PositiveInt, prompt_init: Initializer
) -> Callable[..., ComputedPrompt]:
  """Configures residual prompt tuning in gin files.

  Args:
    length: Positions, P.
    bottleneck: Width of the MLP, R.
    prompt_init: Initialiser of the prompt that the MLP's output is added to.
  """
  parts = (
    ("base", (_POSITIONS, _WIDTH), prompt_init),
    ("down", (_WIDTH, _INNER), KERNEL_INIT),
    ("down_bias", (_INNER,), _ZEROS),
    ("up", (_INNER, _WIDTH), KERNEL_INIT),
    ("up_bias", (_WIDTH,), _ZEROS),
    ("norm_scale", (_WIDTH,), _ONES),
    ("norm_shift", (_WIDTH,), _ZEROS),
  )
  return functools.partial(
    ComputedPrompt, length=length, inner=bottleneck, parts=parts
  )


def superposition(
  length: PositiveInt, num_tokens: PositiveInt, prompt_init: Initializer
) -> Callable[..., ComputedPrompt]:
  """Configures SuperPos in gin files.

  The weights start so that a position is about as large as an embedding.

  Args:
    length: Positions, P.
    num_tokens: Sampled embeddings, R.
    prompt_init: Initialiser of [R, H], the embeddings.
  """

  def tokens_init(rng: PRNGKey, shape: tuple[int, ...], dtype: DType) -> Array:
    embeddings = (num_tokens, shape[1] // num_tokens)
    row = prompt_init(rng, embeddings, dtype).reshape(1, -1)
    return jnp.broadcast_to(row, shape)

  weights_init = nn.initializers.normal(num_tokens**-0.5)
  parts = (
    ("weights", (_POSITIONS, _INNER), weights_init),
    ("tokens", (_POSITIONS, _ROW), tokens_init),
  )
  return functools.partial(
    ComputedPrompt, length=length, inner=num_tokens, parts=parts
  )


def rank_one(
  length: PositiveInt, prompt_init: Initializer
) -> Callable[..., ComputedPrompt]:
  """Configures MPT's prompt of one task in gin files.

  Args:
    length: Positions, P.
    prompt_init: Initialiser of the shared prompt, such as that of a run on many
      tasks.
  """
  parts = (
    ("shared", (_POSITIONS, _WIDTH), prompt_init),
    ("positions", (_POSITIONS,), _ONES),
    ("features", (_WIDTH,), _ONES),
  )
  return functools.partial(ComputedPrompt, length=length, inner=1, parts=parts)


def find(
  parameters: Mapping[str, _T], paths: Iterable[str] = PARAMETER_PATHS
) -> dict[str, dict[str, _T]]:
  """Finds the parameters that make the prompts of a network.

  Args:
    parameters: Name -> anything, such as the arrays of a checkpoint.
    paths: The possible names of plain prompts.

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


def of_task(parameters: Mapping[str, _T], task: str) -> dict[str, _T]:
  """Reduces MPT's parameters of several tasks to those of one task.

  Args:
    parameters: The parameters of a network with `methods.multitask_prompt`.
    task: The name of a task, as in its parameters: "cb". If there is no such
      task, the result does not fold.
  """
  names = {f"task_{task}_{x}": x for x in ("positions", "features")}
  names["shared/prompt"] = "shared"
  return {
    name.removesuffix(own) + part: x
    for name, x in parameters.items()
    for own, part in names.items()
    if name.endswith(f"/prompt/{own}")
  }


def fold(parts: Mapping[str, Array | np.ndarray]) -> np.ndarray:
  """Computes a prompt, [P, H] float32, from parameters that `find` found."""
  arrays = {name: jnp.asarray(x, jnp.float32) for name, x in parts.items()}
  return np.asarray(FORMULAS[frozenset(parts)](**arrays))
