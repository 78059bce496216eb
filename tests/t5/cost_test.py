"""What a step costs, counted in compiled programs: no clock is read."""

import functools
from typing import Any

import conformance
import jax
import jax.numpy as jnp

from prompt_tuning.t5 import blocked_attention

BATCH, INPUTS, TARGETS = 8, 120, 4
POSITIONS = INPUTS + conformance.PROMPT_LENGTH


@functools.cache
def compiled(what: str) -> Any:
  """The program of a forward pass, or of the gradients of some parameters."""
  model = conformance.transformer(
    dtype="bfloat16", num_encoder_layers=1, num_decoder_layers=1
  )
  params = conformance.parameters()
  inputs = jnp.ones((BATCH, INPUTS), jnp.int32)
  targets = jnp.ones((BATCH, TARGETS), jnp.int32)

  def objective(trainable, frozen):
    encoder = {**frozen["encoder"], **trainable.get("encoder", {})}
    merged = {**frozen, **trainable, "encoder": encoder}
    return model.apply(
      {"params": merged}, inputs, targets, targets, enable_dropout=False
    ).sum()

  prompt = {"encoder": {"prompt": params["encoder"]["prompt"]}}
  program, trainable = {
    "forward": (objective, prompt),
    "prompt": (jax.grad(objective), prompt),
    "everything": (jax.grad(objective), params),
  }[what]
  return jax.jit(program).lower(trainable, params).compile()


def flops(what: str) -> float:
  return compiled(what).cost_analysis()["flops"]


def test_a_prompt_step_computes_no_gradient_of_a_frozen_kernel():
  # Measured: 2.9 and 0.84. Attention's weights are computed three times.
  assert flops("prompt") < 3.1 * flops("forward")
  assert flops("prompt") < 0.88 * flops("everything")


def test_blocks_of_attention_bound_the_temporaries_of_a_step(monkeypatch):
  def temporaries():
    compiled.cache_clear()
    jax.clear_caches()  # What was traced has the size of block of before.
    return compiled("prompt").memory_analysis().temp_size_in_bytes

  whole_batch = temporaries()
  an_example = 4 * conformance.config().num_heads * POSITIONS**2
  monkeypatch.setattr(blocked_attention, "_BLOCK_BYTES", an_example)
  in_blocks = temporaries()
  compiled.cache_clear()
  # Measured: 0.32.
  assert in_blocks < 0.4 * whole_batch
