"""A Flax module with its vocabularies, loss, decoding and optimizer."""

from collections.abc import Callable, Mapping
import dataclasses
from typing import TYPE_CHECKING, Annotated, Any, cast

import flax.linen as nn
import jax
import jax.numpy as jnp
from pydantic import Field, NonNegativeFloat, PositiveInt

from t5x import decoding, losses, optimizers
from t5x.input import joined
from t5x.train_state import Params, merge

if TYPE_CHECKING:
  from seqio import FeatureConverter, Vocabulary
else:  # seqio imports TensorFlow, 0.7 GB that a step does not need.
  FeatureConverter = Vocabulary = Any

Batch = Mapping[str, jax.Array]
# Sums over examples, to be added up over microbatches and steps.
MetricSums = Mapping[str, jax.Array]
# The sums that `loss_divisor` divides; all others are counts.
_LOSSES = ("loss", "z_loss")
_ARGUMENTS = (
  *("encoder_input_tokens", "decoder_input_tokens", "decoder_target_tokens"),
  *("encoder_segment_ids", "decoder_segment_ids"),
  *("encoder_positions", "decoder_positions"),
)


def _arguments(batch: Batch) -> dict[str, Any]:
  """Returns the arguments of a module that come from a batch."""
  return {name: batch.get(name) for name in _ARGUMENTS}


def _encoder_decoder_features(**arguments: Any) -> FeatureConverter:
  import seqio

  return seqio.EncDecFeatureConverter(**arguments)


@dataclasses.dataclass(eq=False)
class EncoderDecoderModel:
  """An encoder-decoder under the module contract of T5X.

  Attributes:
    module: A module with `__call__`, `encode` and `decode`.
    input_vocabulary: The vocabulary of the encoder's tokens; its attribute
      `of_inputs`, if it has one, replaces it.
    output_vocabulary: The vocabulary of the decoder's tokens.
    optimizer_def: The parameters that train, and their optimizer; None for a
      model that is only evaluated.
    decode_fn: A function from `t5x.decoding`.
    feature_converter_cls: Makes batches from the examples of tasks.
    label_smoothing: Probability that is taken from the right token.
    z_loss: Weight of the squared log partition function.
    loss_normalizing_factor: Divisor of the summed loss; None leaves the sum.
    default_decoder_params: Arguments of `decode_fn`.
    teacher: A function from the module to another one with the same parameters,
      which training should approach; or None. See `losses.distance`.
    distillation: Weight of the distance from the teacher.
    ends_inputs: Whether inputs get an end token if their task says so. If
      False, no input gets one.
  """

  module: nn.Module
  input_vocabulary: Vocabulary
  output_vocabulary: Vocabulary
  optimizer_def: optimizers.OptimizerDef | None
  decode_fn: Callable[..., Any] = decoding.beam_search
  feature_converter_cls: Callable[..., FeatureConverter] = (
    _encoder_decoder_features
  )
  label_smoothing: Annotated[float, Field(ge=0, lt=1)] = 0.0
  z_loss: NonNegativeFloat = 0.0
  loss_normalizing_factor: (
    float | str | losses.SpecialLossNormalizingFactor | None
  ) = None
  default_decoder_params: Mapping[str, Any] | None = None
  teacher: Callable[[nn.Module], nn.Module] | None = None
  distillation: NonNegativeFloat = 0.9
  ends_inputs: bool = True

  def __post_init__(self):
    vocabulary = self.input_vocabulary
    self.input_vocabulary = getattr(vocabulary, "of_inputs", vocabulary)
    losses.find_loss_normalizing_factor(self.loss_normalizing_factor)

  def get_initial_variables(
    self,
    rng: jax.Array,
    input_shapes: Mapping[str, tuple[int, ...]],
    input_types: Mapping[str, Any] | None = None,
  ) -> Params:
    """Initialises the module.

    Args:
      rng: PRNG key.
      input_shapes: Shapes of the features of a batch.
      input_types: Their dtypes, which T5X gives; int32 by default.

    Returns:
      The collections `params` and `params_axes`.
    """
    types = input_types or {}
    ones = joined.take_apart(
      {k: jnp.ones(x, types.get(k, jnp.int32)) for k, x in input_shapes.items()}
    )
    return self.module.init(
      rng, **_arguments(ones), decode=False, enable_dropout=False
    )

  def _outputs(
    self,
    params: Params,
    batch: Batch,
    dropout_rng: jax.Array | None,
    module: nn.Module | None = None,
  ) -> tuple[jax.Array, Params]:
    """Returns logits, [B, S, V], and a tree of hidden states, [B, S, H]."""
    outputs = (module or self.module).apply(
      {"params": params},
      **_arguments(batch),
      decode=False,
      enable_dropout=dropout_rng is not None,
      rngs={} if dropout_rng is None else {"dropout": dropout_rng},
      mutable=["intermediates"],
    )
    return cast(tuple[jax.Array, Params], outputs)

  def loss_fn(
    self, params: Params, batch: Batch, dropout_rng: jax.Array | None
  ) -> tuple[jax.Array, MetricSums]:
    """Computes the loss of a batch.

    Args:
      params: All parameters.
      batch: Features `[B, ...]` from the feature converter.
      dropout_rng: PRNG key; None turns dropout off.

    Returns:
      The loss, a sum over target tokens in nats unless it is normalised, and
      the sums behind the metrics.
    """
    batch = joined.take_apart(batch)
    outputs = self._outputs(params, batch, dropout_rng)
    logits = outputs[0]
    targets = batch["decoder_target_tokens"]
    factor, weights = losses.get_loss_normalizing_factor_and_weights(
      self.loss_normalizing_factor, batch
    )
    loss, z_loss, weight_sum = losses.compute_weighted_cross_entropy(
      logits,
      targets,
      weights=weights,
      label_smoothing=self.label_smoothing,
      z_loss=self.z_loss,
      loss_normalizing_factor=factor,
    )
    if self.teacher is not None and dropout_rng is not None:
      taught = self._outputs(params, batch, None, self.teacher(self.module))
      away = jnp.sum(losses.distance(outputs, taught) * weights)
      loss += self.distillation * away / (1.0 if factor is None else factor)
    counted = weights > 0
    right = (jnp.argmax(logits, axis=-1) == targets) & counted
    return loss, {
      "loss": loss,
      "z_loss": z_loss,
      "weight_sum": weight_sum,
      "correct_tokens": jnp.sum(right, dtype=jnp.float32),
      "target_tokens": jnp.sum(counted, dtype=jnp.float32),
      "target_slots": jnp.float32(targets.size),
      "input_tokens": jnp.sum(
        batch["encoder_input_tokens"] > 0, dtype=jnp.float32
      ),
      "input_slots": jnp.float32(batch["encoder_input_tokens"].size),
      "examples": jnp.sum(counted.any(axis=1), dtype=jnp.float32),
    }

  def loss_divisor(self, batch: Batch) -> jax.Array:
    """Returns the number that `loss_fn` divides a batch's summed loss by."""
    divisor, _ = losses.get_loss_normalizing_factor_and_weights(
      self.loss_normalizing_factor, joined.take_apart(batch)
    )
    return jnp.float32(1.0 if divisor is None else divisor)

  def eval_fn(
    self, params: Params, batch: Batch
  ) -> tuple[jax.Array, MetricSums]:
    """Computes `loss_fn` without dropout."""
    return self.loss_fn(params, batch, dropout_rng=None)

  def score_batch(self, params: Params, batch: Batch) -> jax.Array:
    """Computes the log likelihood of the targets.

    Args:
      params: All parameters.
      batch: Features `[B, ...]`.

    Returns:
      [B] Sums over target tokens, in nats.
    """
    batch = joined.take_apart(batch)
    log_probs = jax.nn.log_softmax(self._outputs(params, batch, None)[0])
    token_scores = jnp.take_along_axis(
      log_probs, batch["decoder_target_tokens"][..., None], axis=-1
    )[..., 0]
    return jnp.sum(token_scores * batch["decoder_loss_weights"], axis=-1)

  def predict_batch(
    self, params: Params, batch: Batch, rng: jax.Array | None = None
  ) -> jax.Array:
    """Decodes; see `predict_batch_with_aux`."""
    return self.predict_batch_with_aux(params, batch, rng=rng)[0]

  def predict_batch_with_aux(
    self,
    params: Params,
    batch: Batch,
    rng: jax.Array | None = None,
    return_all_decodes: bool = False,
    num_decodes: PositiveInt = 1,
  ) -> tuple[jax.Array, Mapping[str, jax.Array]]:
    """Decodes a batch.

    Args:
      params: All parameters.
      batch: Features `[B, ...]`; only the length of the decoder's is used.
      rng: PRNG key for sampling.
      return_all_decodes: Whether to return all sequences or only the best.
      num_decodes: Beams, or samples.

    Returns:
      Tokens [B, S], or [B, num_decodes, S] with the best last; and
      {"scores": [B] or [B, num_decodes]}.
    """
    batch = joined.take_apart(batch)
    inputs = batch["encoder_input_tokens"]
    decoder_inputs = jnp.zeros_like(batch["decoder_input_tokens"])
    variables = {"params": params}
    encoded: Any = self.module.apply(
      variables, inputs, enable_dropout=False, method=self.module.encode
    )
    steps = decoder_inputs.shape[1]
    cache, kept = decoding.start_decoding(
      self.module, params, encoded, inputs, steps
    )
    decode = decoding.next_logits(
      self.module, params, kept, encoded, inputs, steps, num_decodes
    )

    def tokens_to_logits(state):
      return decode(state.cur_token, state.cache)

    arguments = dict(self.default_decoder_params or {})
    if rng is not None:
      arguments.setdefault("decode_rng", rng)
    decodes, scores = self.decode_fn(
      inputs=decoder_inputs,
      cache=cache,
      tokens_to_logits=tokens_to_logits,
      eos_id=self.output_vocabulary.eos_id,
      num_decodes=num_decodes,
      **arguments,
    )
    if return_all_decodes:
      return decodes, {"scores": scores}
    return decodes[:, -1], {"scores": scores[:, -1]}


class DecoderOnlyModel(EncoderDecoderModel):
  """A decoder, whose targets follow its inputs; only targets have a loss.

  Inputs and targets are separate, as for an encoder-decoder, so that the output
  head runs on targets only. Joined ones are separated; see `input.joined`.
  """

  def __init__(
    self,
    module: nn.Module,
    vocabulary: Vocabulary,
    optimizer_def: optimizers.OptimizerDef | None,
    decode_fn: Callable[..., Any] = decoding.temperature_sample,
    **options: Any,
  ):
    """Keeps its arguments.

    Args:
      module: A module with `__call__`, `encode` and `decode`.
      vocabulary: The vocabulary of inputs and targets.
      optimizer_def: As for `EncoderDecoderModel`.
      decode_fn: A function from `t5x.decoding`.
      **options: More arguments of `EncoderDecoderModel`.
    """
    arguments = (module, vocabulary, vocabulary, optimizer_def, decode_fn)
    super().__init__(*arguments, ends_inputs=False, **options)

  def predict_batch_with_aux(
    self,
    params: Params,
    batch: Batch,
    rng: jax.Array | None = None,
    return_all_decodes: bool = False,
    num_decodes: PositiveInt = 1,
  ) -> tuple[jax.Array, Mapping[str, jax.Array]]:
    """Decodes a batch, with arguments that gin binds to this class only."""
    arguments = params, batch, rng, return_all_decodes, num_decodes
    return super().predict_batch_with_aux(*arguments)


@jax.jit
def add(a: Any, b: Any) -> Any:
  """Adds two trees of arrays of the same structure."""
  return jax.tree.map(jnp.add, a, b)


def weigh(
  model: EncoderDecoderModel,
  grads: Params,
  sums: MetricSums,
  part: Batch,
  divisor: jax.Array,
) -> tuple[Params, MetricSums]:
  """Weighs a part of a batch, whose loss was divided by its own divisor.

  Args:
    model: The model.
    grads: The gradients of the part, if any.
    sums: The sums that `model.loss_fn` returned for the part.
    part: Features `[B, ...]`.
    divisor: `model.loss_divisor` of the whole batch.

  Returns:
    The weighted gradients and sums; over all parts, they add up to the batch's.
  """
  weight = model.loss_divisor(part) / divisor
  sums = {
    name: x * weight if name in _LOSSES else x for name, x in sums.items()
  }
  return jax.tree.map(lambda x: x * weight.astype(x.dtype), grads), sums


def value_and_grad(
  model: EncoderDecoderModel,
  trainable: Params,
  frozen: Params,
  batch: Batch,
  dropout_rng: jax.Array,
  num_microbatches: int | None = None,
) -> tuple[Params, MetricSums]:
  """Differentiates the loss with respect to only the trainable parameters.

  Args:
    model: The model.
    trainable: The parameters to differentiate.
    frozen: The other parameters.
    batch: Features `[B, ...]`.
    dropout_rng: PRNG key.
    num_microbatches: The number of parts that the batch is computed in, which
      must divide it; their gradients add up. None or 1 computes it whole.

  Returns:
    Gradients like `trainable`, and the sums behind the metrics.
  """
  if num_microbatches in (None, 1):

    def loss_fn(trainable):
      params = merge(trainable, frozen)
      return model.loss_fn(params, batch, dropout_rng)

    return jax.grad(loss_fn, has_aux=True)(trainable)

  # Every microbatch takes rows from every shard of the batch: [B / M, M, ...].
  parts = jax.tree.map(
    lambda x: jnp.swapaxes(x.reshape(-1, num_microbatches, *x.shape[1:]), 0, 1),
    batch,
  )
  rngs = jax.random.split(dropout_rng, num_microbatches)
  divisor = model.loss_divisor(batch)

  def gradients(part, rng):
    grads, sums = value_and_grad(model, trainable, frozen, part, rng)
    return weigh(model, grads, sums, part, divisor)

  part_shapes = jax.tree.map(lambda x: x[0], (parts, rngs))
  zeros = jax.tree.map(
    lambda x: jnp.zeros(x.shape, x.dtype),
    jax.eval_shape(gradients, *part_shapes),
  )
  return jax.lax.scan(
    lambda total, part: (add(total, gradients(*part)), None),
    zeros,
    (parts, rngs),
  )[0]
