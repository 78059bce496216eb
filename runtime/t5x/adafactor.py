"""Adafactor as T5X runs it: https://arxiv.org/abs/1804.04235."""

from collections.abc import Mapping
import dataclasses
from typing import Any

import jax
import jax.numpy as jnp
import optax

from t5x import optimizers


def standard_logical_factor_rules() -> dict[str, Any]:
  """Returns no rules: matrices are factored by their two dimensions.

  T5X's gin files name this function for `Adafactor.logical_factor_rules`.
  """
  return {}


# Compared by identity, so that it can be a static argument of jit.
@dataclasses.dataclass(frozen=True, eq=False)
class Adafactor(optimizers.OptimizerDef):
  """Adafactor.

  The second moment decays by 1 - (step - step_offset + 1)^-decay_rate, where
  step is the trainer's. When a pretrained model is restored at step 1,100,000
  and the second moment begins empty, the decay is near 1, the moment grows
  slowly, and the clipping sets the size of the updates for a long while.

  Attributes:
    factored: Whether large matrices keep only the means of rows and columns.
    multiply_by_parameter_scale: Whether the learning rate is relative to the
      RMS of the parameter.
    beta1: Decay of the momentum; None keeps no momentum.
    decay_rate: Exponent of the second moment's decay.
    step_offset: The step from which the decay counts. The decay is undefined
      before that step, so a run may not start earlier.
    clipping_threshold: Greatest RMS of an update before it is multiplied by the
      learning rate; None does not clip.
    weight_decay_rate: The fraction of itself that a parameter loses in a step.
      It is not multiplied by the learning rate.
    min_dim_size_to_factor: A parameter is factored when its two dimensions are
      at least this large.
    epsilon1: Added to the squared gradient.
    epsilon2: Least RMS of a parameter that the learning rate is multiplied by.
    logical_factor_rules: Accepted for T5X's gin files, and not used: the rules
      are for parameters of more than two dimensions.
  """

  factored: bool = True
  multiply_by_parameter_scale: bool = True
  beta1: float | None = None
  decay_rate: float = 0.8
  step_offset: int = 0
  clipping_threshold: float | None = 1.0
  weight_decay_rate: float | None = None
  min_dim_size_to_factor: int = 128
  epsilon1: float = 1e-30
  epsilon2: float = 1e-3
  logical_factor_rules: Mapping[str, Any] | None = None

  def check_start(self, step):
    if step < self.step_offset:
      raise ValueError(
        f"Expected Adafactor's step_offset to be at most {step}, the step that "
        f"the run starts at, got {self.step_offset}: the decay of the second "
        "moment counts from it. Give the base checkpoint's step, or 0."
      )

  def transformation(self, learning_rate, step):
    def decay(count, exponent):
      del count  # optax counts from 0, T5X from the restored step.
      return 1.0 - (step - self.step_offset + 1.0) ** -exponent

    def refuse(params: Any) -> optax.EmptyState:
      """Refuses parameters whose factored axes only the rules could decide."""
      for path, param in jax.tree_util.tree_leaves_with_path(params):
        if jnp.ndim(param) > 2:
          name = jax.tree_util.keystr(path, simple=True, separator="/")
          raise ValueError(
            f"Expected parameters of at most two dimensions, got {name} of "
            f"shape {param.shape}. Factoring stacked parameters by "
            "logical_factor_rules is not supported."
          )
      return optax.EmptyState()

    stages = [
      optax.GradientTransformation(refuse, optax.identity().update),
      optax.scale_by_factored_rms(
        self.factored,
        self.decay_rate,
        min_dim_size_to_factor=self.min_dim_size_to_factor,
        epsilon=self.epsilon1,
        decay_rate_fn=decay,
      ),
    ]
    if self.clipping_threshold is not None:
      stages.append(optax.clip_by_block_rms(self.clipping_threshold))
    stages.append(optax.scale(learning_rate))
    if self.multiply_by_parameter_scale:
      stages.append(optax.scale_by_param_block_rms(self.epsilon2))
    if self.beta1 is not None:
      stages.append(optax.ema(self.beta1, debias=False))
    if self.weight_decay_rate is not None:
      stages.append(optax.add_decayed_weights(self.weight_decay_rate))
    return optimizers.by_layer(optax.chain(*stages, optax.scale(-1.0)))
