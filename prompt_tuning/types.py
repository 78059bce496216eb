"""Array aliases and the letters that name axes in every docstring.

B batch, T input length, S target length, P prompt length, H model width,
V vocabulary, N heads, D head width, F MLP width, L layers.
"""

from collections.abc import Callable
from typing import Any

import jax

Array = jax.Array
PRNGKey = jax.Array
DType = Any
# `init(rng, shape, dtype) -> array`, as in flax.linen.initializers.
Initializer = Callable[..., Array]
