"""The toy T5s of the conformance vectors: parameters by formula.

`testdata/toy_t5_1_1.npz` holds batches and the float32 results that the
published reference programs (T5X, Flaxformer, prompt-tuning) compute from them.
`FACTS` holds their results that are not arrays.
"""

import functools
import json
import pathlib
from typing import Any
import zlib

from flax import traverse_util
import jax
import jax.numpy as jnp
import numpy as np

from prompt_tuning import prompts
from prompt_tuning.models.t5 import network
from t5x.formats import stacking

_TESTDATA = pathlib.Path(__file__).parent / "testdata"
_SPEC = json.loads((_TESTDATA / "toy_t5_1_1.json").read_text())
FACTS = _SPEC["facts"]
PROMPT_LENGTH = _SPEC["prompt_length"]
LONG_PROMPT_LENGTH = _SPEC["long_prompt_length"]
_PROMPT = "encoder/prompt/prompt"
# The reference wraps the prompt's module in another module.
_REFERENCE_PROMPT = "encoder/prompt/prompt/prompt"


@functools.cache
def expected(name: str) -> np.ndarray:
  """Returns a reference array, such as "prompt/logits"."""
  with np.load(_TESTDATA / "toy_t5_1_1.npz") as arrays:
    return arrays[name]


def our_name(name: str) -> str:
  """Translates the reference's name of a parameter into ours."""
  return _PROMPT if name == _REFERENCE_PROMPT else name


def config(size: str = "toy", **overrides: Any) -> network.T5Config:
  """Returns the "toy" or "wide" T5, in float32 and without dropout."""
  sizes = _SPEC[size]
  return network.T5Config(
    **{
      "vocab_size": _SPEC["vocab"],
      "emb_dim": sizes["d"],
      "num_heads": sizes["heads"],
      "num_encoder_layers": sizes["enc"],
      "num_decoder_layers": sizes["dec"],
      "head_dim": sizes["hd"],
      "mlp_dim": sizes["mlp"],
      "dtype": "float32",
      "dropout_rate": 0.0,
    }
    | overrides
  )


def transformer(
  prompt_length: int = PROMPT_LENGTH, size: str = "toy", **overrides: Any
) -> network.Transformer:
  """Returns the network, without a prompt if its length is 0."""
  injections = network.Injections()
  if prompt_length:
    prompt = functools.partial(prompts.Prompt, prompt_length)
    injections = network.Injections(prompt=prompt)
  return network.Transformer(config(size, **overrides), injections)


def parameters(
  prompt_length: int = PROMPT_LENGTH, size: str = "toy"
) -> dict[str, Any]:
  """Returns float32 parameters as nested dictionaries with our names."""
  shapes = _SPEC["parameters" if size == "toy" else "wide_parameters"]
  flat = {}
  for name, shape in shapes.items():
    if name == _REFERENCE_PROMPT:
      if not prompt_length:
        continue
      shape = (prompt_length, shape[1])
    flat[our_name(name)] = jnp.asarray(_parameter(name, shape))
  return traverse_util.unflatten_dict(flat, sep="/")


def with_prompt(
  params: dict[str, Any], prompt: Any, stack: str = "encoder"
) -> dict[str, Any]:
  """Returns the parameters with those of the prompt's module replaced."""
  return {**params, stack: {**params[stack], "prompt": prompt}}


def _parameter(name: str, shape: tuple[int, ...]) -> np.ndarray:
  seed = zlib.crc32(name.encode()) + _SPEC["seed"]
  normal = np.random.default_rng(seed).standard_normal(shape)
  if name.endswith("/scale"):
    value = 1 + 0.1 * normal
  elif name.endswith("/rel_embedding"):
    value = 0.2 * normal
  elif name.endswith("/embedding"):
    value = normal
  elif name.endswith("/kernel"):
    value = normal * (0.5 / np.sqrt(shape[0]))
  else:
    value = 0.5 * normal  # The prompt.
  return value.astype(np.float32)


def batch(k: int = 0) -> dict[str, np.ndarray]:
  """Returns batch `k`: 4 rows, 12 input and 5 target positions."""
  names = (
    *("encoder_input_tokens", "decoder_input_tokens"),
    *("decoder_target_tokens", "decoder_loss_weights"),
  )
  return {name: expected(f"batch{k}/{name}") for name in names}


def network_inputs(features: dict[str, np.ndarray]) -> tuple[np.ndarray, ...]:
  """Returns the arguments of `Transformer.__call__` from a batch."""
  return (
    features["encoder_input_tokens"],
    features["decoder_input_tokens"],
    features["decoder_target_tokens"],
  )


def variable_shapes(
  model: network.Transformer, inputs: Any = None, **options: Any
) -> Any:
  """Returns the shapes from `init`; the default inputs are those of a batch."""
  init = functools.partial(model.init, enable_dropout=False, **options)
  inputs = inputs or network_inputs(batch())
  return jax.eval_shape(init, jax.random.key(0), *inputs)


def random_params(model: Any, scale: float = 1.0) -> dict[str, Any]:
  """Makes random parameters, because some methods start with zeros."""
  rng = np.random.default_rng(0)
  return jax.tree.map(
    lambda x: (scale * rng.normal(size=x.shape)).astype(x.dtype),
    variable_shapes(model)["params"],
  )


def stacked(model: Any, apart: dict[str, Any]) -> dict[str, Any]:
  """Stacks the parameters of `layers_<i>` for a model that scans its layers."""
  shapes = variable_shapes(model)["params"]
  together = stacking.put_together(
    *(traverse_util.flatten_dict(x, sep="/") for x in (apart, shapes))
  )
  return traverse_util.unflatten_dict(together, sep="/")


def decode_step_by_step(
  model: network.Transformer,
  params: dict[str, Any],
  features: dict[str, np.ndarray],
) -> np.ndarray:
  """Feeds the decoder's inputs one by one, with a cache made as T5X does.

  Returns:
    [B, S, V] The logits of every step.
  """
  inputs = features["encoder_input_tokens"]
  length = features["decoder_input_tokens"].shape[1]
  apply = functools.partial(model.apply, enable_dropout=False)
  encode = jax.jit(functools.partial(apply, method=model.encode))
  encoded = encode({"params": params}, inputs)
  start = functools.partial(apply, decode=True, mutable=["cache"])
  _, shapes = jax.eval_shape(
    start, {"params": params}, *network_inputs(features)
  )
  variables = jax.tree.map(lambda x: jnp.zeros(x.shape, x.dtype), shapes)
  step = jax.jit(
    functools.partial(
      apply,
      decode=True,
      max_decode_length=length,
      mutable=["cache"],
      method=model.decode,
    )
  )
  logits = []
  for tokens in np.split(features["decoder_input_tokens"], length, axis=1):
    step_logits, variables = step(
      {"params": params} | variables, encoded, inputs, tokens, tokens
    )
    logits.append(step_logits)
  for leaf in jax.tree.leaves(variables):
    # Beam search gathers over the batch axis and shares scalars.
    assert leaf.ndim == 0 or len(leaf) == len(inputs)
  return np.concatenate(logits, axis=1)
