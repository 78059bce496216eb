"""Our side: the trainer's own step, decoding and ranking."""

import functools
from typing import Any

from flax import traverse_util
import jax
import jax.numpy as jnp
import numpy as np

from peers import cases, prompted
from peers.worker import Call, Outcome
from prompt_tuning import prompt_files
from prompt_tuning.inference import ranking
from prompt_tuning.interop import hugging_face
from t5x import (
  by_length,
  decoding,
  models,
  optimizers,
  partitioning,
  train_state,
  trainer,
)
from t5x.formats import base_checkpoints


def make(case: cases.Case, folder: str, variant: str) -> Call:
  """Reads the weights; nothing is compiled yet.

  Args:
    case: The case.
    folder: The folder of the weights.
    variant: "one prompt" in a case of several prompts; else "".
  """
  several = case.work == "prompts" and not variant
  prompt = np.load(f"{folder}/prompts.npy")[:, : case.prompt]
  if case.is_decoder:
    base = hugging_face.open_folder(f"{folder}/hf")
  else:
    base = base_checkpoints.open_checkpoint(f"{folder}/t5x")
  dtype = jnp.dtype(prompted.config(case).param_dtype)
  device = jax.sharding.SingleDeviceSharding(jax.local_devices()[0])
  params = base.read(
    {
      name: jax.ShapeDtypeStruct(x.shape, dtype, sharding=device)
      for name, x in base.arrays.items()
    }
  )
  path = prompt_files.PARAMETER_PATHS[case.is_decoder]
  params[path] = jnp.asarray(prompt if several else prompt[0])
  params = traverse_util.unflatten_dict(params, sep="/")
  model = make_model(case, several)
  if case.work == "step":
    return _step(case, model, params)
  return _answers(case, model, params)


def make_model(
  case: cases.Case, several: bool = False
) -> models.EncoderDecoderModel:
  arguments = prompted.arguments(case, several)
  if case.work == "rank":
    words = arguments["output_vocabulary"]
    return ranking.make_ranking_model(cases.LABELS, words, **arguments)
  # gin/decoding/greedy.gin
  greedy = functools.partial(decoding.temperature_sample, topk=1)
  make = models.EncoderDecoderModel
  if case.is_decoder:
    make = models.DecoderOnlyModel
  return make(**arguments, decode_fn=greedy)


def _step(
  case: cases.Case, model: models.EncoderDecoderModel, params: dict[str, Any]
) -> Call:
  partitioner = partitioning.PjitPartitioner(num_partitions=1)
  state = train_state.TrainState.create(model.optimizer_def, params)
  replicated = jax.tree.map(lambda _: partitioner.sharding(), state)
  # As gin/runs/by_length.gin, if the lengths differ.
  trainer_cls = by_length.Trainer if case.task else trainer.Trainer
  tuning = trainer_cls(
    model=model,
    train_state=jax.device_put(state, replicated),
    partitioner=partitioner,
    train_state_axes=replicated,
    rng=jax.random.key(0),
    learning_rate_fn=optimizers.create_learning_rate_scheduler(
      factors="constant", base_learning_rate=prompted.LEARNING_RATE
    ),
    weight_metrics_computer=trainer.WeightMetricsComputer(),
  )
  del state, params
  batches = [prompted.features(case, rows) for rows in case.batches()]

  def call(i: int) -> Outcome:
    metrics = tuning.train_steps(iter([batches[i]]), 1)
    tokens = np.sum(batches[i]["decoder_target_tokens"] > 0)
    return {
      "loss": metrics["loss"] / tokens,
      "gradient_norm": metrics["weights/gradient_norm"] / tokens,
    }

  return call


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
      return {"scores": aux["scores"]}  # The likeliest label comes last.
    return {"tokens": tokens[:, -1]}

  return call
