"""Our side: the trainer's own step, decoding and ranking."""

import functools
from typing import Any

from flax import traverse_util
import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np

from peers import cases
from peers.worker import Call, Outcome
from prompt_tuning import prompts
from prompt_tuning.injections import Injections
from prompt_tuning.methods import trainable
from prompt_tuning.t5 import network
from prompt_tuning.training import ranking
from t5x import (
  adafactor,
  base_checkpoints,
  by_length,
  decoding,
  models,
  optimizers,
  partitioning,
  schedules,
  train_state,
  trainer,
)

_PROMPT = "encoder/prompt/prompt"


class PromptOfEach(nn.Module):
  """A prompt for every example: [M, P, H], taken by example number modulo M."""

  length: int

  @nn.compact
  def __call__(self, tokens: jax.Array, embedded: jax.Array) -> jax.Array:
    shape = (cases.PROMPTS, self.length, embedded.shape[-1])
    table = self.param("prompt", nn.initializers.zeros, shape)
    rows = jnp.arange(len(tokens)) % cases.PROMPTS
    return table[rows].astype(embedded.dtype)


class _Ids:
  """A vocabulary whose ids stand for themselves.

  seqio has one; but seqio brings TensorFlow, which no step needs.
  """

  eos_id = 1

  def encode(self, ids: tuple[int, ...]) -> tuple[int, ...]:
    return ids


def make(
  case: cases.Case, folder: str, variant: str, options: dict[str, Any]
) -> Call:
  """Reads the weights; nothing is compiled yet.

  Args:
    case: The case.
    folder: Of the weights.
    variant: "one prompt", where there might be several; or nothing.
    options: Fields of `T5Config` that are not the defaults.
  """
  several = case.work == "prompts" and not variant
  prompt = np.load(f"{folder}/prompts.npy")[:, : case.prompt]
  params = _read(case, folder, options)
  params[_PROMPT] = jnp.asarray(prompt if several else prompt[0])
  params = traverse_util.unflatten_dict(params, sep="/")
  model = make_model(case, several, options)
  if case.work == "step":
    return _step(case, model, params)
  return _answers(case, model, params)


def _config(case: cases.Case, options: dict[str, Any]) -> network.T5Config:
  sizes = dict(cases.SIZES[case.size])
  layers = sizes.pop("num_layers")
  return network.T5Config(
    **{
      "vocab_size": cases.VOCAB_SIZE,
      **sizes,
      "num_encoder_layers": layers,
      "num_decoder_layers": layers,
      "dtype": case.dtype,
      # A frozen model needs no float32 copy of its weights; PEFT has none.
      "param_dtype": case.dtype,
      "dropout_rate": 0.0,
      **options,
    }
  )


def _read(
  case: cases.Case, folder: str, options: dict[str, Any]
) -> dict[str, jax.Array]:
  """The frozen weights under T5X's paths."""
  base = base_checkpoints.open_checkpoint(f"{folder}/t5x")
  dtype = jnp.dtype(_config(case, options).param_dtype)
  device = jax.sharding.SingleDeviceSharding(jax.local_devices()[0])
  return base.read(
    {
      name: jax.ShapeDtypeStruct(x.shape, dtype, sharding=device)
      for name, x in base.shapes.items()
    }
  )


def make_model(
  case: cases.Case, several: bool, options: dict[str, Any]
) -> models.EncoderDecoderModel:
  prompt = PromptOfEach if several else prompts.Prompt
  vocabulary = _Ids()
  optimizer = optimizers.MultiOptimizer(
    (
      (
        traverse_util.ModelParamTraversal(
          trainable.matches_any([".*/prompt/.*"])
        ),
        adafactor.Adafactor(multiply_by_parameter_scale=False),
      ),
    )
  )
  arguments = {
    "module": network.Transformer(
      _config(case, options),
      Injections(prompt=functools.partial(prompt, length=case.prompt)),
    ),
    "input_vocabulary": vocabulary,
    "output_vocabulary": vocabulary,
    "optimizer_def": optimizer,
    # gin/decoding/greedy.gin
    "decode_fn": functools.partial(decoding.temperature_sample, topk=1),
  }
  if case.work == "rank":
    del arguments["decode_fn"]
    return ranking.RankingModel(**arguments, labels=cases.LABELS)
  return models.EncoderDecoderModel(**arguments)


def _step(
  case: cases.Case, model: models.EncoderDecoderModel, params: dict[str, Any]
) -> Call:
  partitioner = partitioning.PjitPartitioner(num_partitions=1)
  state = train_state.TrainState.create(model.optimizer_def, params)
  replicated = jax.tree.map(lambda _: partitioner.sharding(), state)
  # gin/runs/by_length.gin, where there are lengths to speak of.
  trainer_cls = by_length.Trainer if case.task else trainer.Trainer
  tuning = trainer_cls(
    model=model,
    train_state=jax.device_put(state, replicated),
    partitioner=partitioner,
    train_state_axes=replicated,
    rng=jax.random.key(0),
    learning_rate_fn=schedules.create_learning_rate_scheduler(
      factors="constant", base_learning_rate=0.3
    ),
    weight_metrics_computer=trainer.WeightMetricsComputer(),
  )
  del state, params
  batches = [features(case, rows) for rows in case.batches()]

  def call(i: int) -> Outcome:
    metrics = tuning.train_steps(iter([batches[i]]), 1)
    tokens = np.sum(batches[i]["decoder_target_tokens"] > 0)
    return {
      "loss": metrics["loss"] / tokens,
      "gradient_norm": metrics["weights/gradient_norm"] / tokens,
    }

  return call


def features(case: cases.Case, rows: Any) -> dict[str, np.ndarray]:
  """A batch as the feature converter makes it."""
  targets = cases.padded(rows["targets"], case.longest("targets"))
  return {
    "encoder_input_tokens": cases.padded(
      rows["inputs"], case.longest("inputs")
    ),
    "decoder_input_tokens": np.pad(targets, ((0, 0), (1, 0)))[:, :-1],
    "decoder_target_tokens": targets,
    "decoder_loss_weights": (targets > 0).astype(np.float32),
  }


def _answers(
  case: cases.Case, model: models.EncoderDecoderModel, params: dict[str, Any]
) -> Call:
  """Decodes or ranks as evaluation does."""
  decode = jax.jit(
    functools.partial(model.predict_batch_with_aux, return_all_decodes=True)
  )
  (rows,) = case.batches()
  batch = {
    "encoder_input_tokens": jnp.asarray(cases.padded(rows["inputs"])),
    "decoder_input_tokens": jnp.zeros((case.batch, case.targets), jnp.int32),
  }

  def call(i: int) -> Outcome:
    del i
    tokens, aux = jax.device_get(decode(params, batch))
    if case.work == "rank":
      # By label, as they are listed.
      lengths = (tokens > 0).sum(axis=-1)
      order = np.argsort(
        [
          [
            cases.LABELS.index(tuple(row[: n - 1].tolist()))
            for row, n in zip(*example, strict=True)
          ]
          for example in zip(tokens, lengths, strict=True)
        ],
        axis=1,
      )
      return {"scores": np.take_along_axis(aux["scores"], order, axis=1)}
    return {"tokens": tokens[:, -1]}

  return call
