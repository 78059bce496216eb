"""Prompts that are computed, of each method by its gin file."""

from typing import Any

import gin
import jax
import jax.numpy as jnp
import numpy as np
import tiny
import tiny_gin

from prompt_tuning import injections

LENGTH, WIDTH = 3, tiny.WIDTH
_RANDOM = ["gin/prompts/random_uniform.gin"]
# The stem of a method's file -> the other files that it takes, and bindings.
METHODS: dict[str, tuple[list[str], list[str]]] = {
  "ulpt": ([], ["ULPT_RANK = 2"]),
  "low_rank_prompt": ([], ["PROMPT_RANK = 2"]),
  "residual_prompt": (_RANDOM, ["RESIDUAL_BOTTLENECK = 5"]),
  "superpos": (_RANDOM, ["SUPERPOS_TOKENS = 2"]),
  "mpt": (_RANDOM, []),
}


def configure(method: str, model: str = "tiny", **macros: Any) -> None:
  files, bindings = METHODS[method]
  settings = {
    "MODEL_DIR": "none",
    "INITIAL_CHECKPOINT_PATH": "none",
    "PROMPT_LENGTH": LENGTH,
    "TASK_FEATURE_LENGTHS": tiny.LENGTHS,
    "TRAIN_STEPS_RELATIVE": 4,
    "EVAL_PERIOD": 2,
  }
  files = [f"gin/methods/{method}.gin", *files]
  tiny_gin.configure_files(
    "train", files, bindings, model, **(settings | macros)
  )


def normal(shapes):
  """Random values, other than those that parameters start with."""
  rng = np.random.default_rng(0)
  return {x: rng.normal(size=y).astype("f4") for x, y in shapes.items()}


def parts_of(method):
  """Random parameters of a method, by their names in its formula."""
  configure(method)
  factory = gin.get_configurable(injections.Injections)().prompt
  shapes = jax.eval_shape(
    lambda: factory(name="prompt").init(
      jax.random.key(0), jnp.ones((1, 2), "int32"), jnp.ones((1, 2, WIDTH))
    )["params"]
  )
  return normal({name: x.shape for name, x in shapes.items()})
