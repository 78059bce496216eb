"""Google's T5X: its trainer, model and partitioner around our network.

T5X has no prompts. In this module, `t5x` is Google's package, from the
`--sources` of `benchmarks/compare.py`.
"""

from flax import core, traverse_util
import jax
import jax.numpy as jnp
import numpy as np

from peers import cases, prompted
from peers.worker import Call, Outcome
from t5x import checkpoints, models, partitioning, train_state, trainer, utils


def make(case: cases.Case, folder: str, variant: str) -> Call:
  """Reads the weights; arguments as for `peers.ours.make`.

  Raises:
    ValueError: if the case is not a training step.
  """
  del variant
  if case.work != "step":
    raise ValueError(f"Expected a training step, got {case.work!r}.")
  model = models.EncoderDecoderModel(**prompted.arguments(case, several=False))
  batches = [prompted.features(case, rows) for rows in case.batches()]
  partitioner = partitioning.PjitPartitioner(num_partitions=1)
  of_state = utils.TrainStateInitializer(
    optimizer_def=model.optimizer_def,
    init_fn=model.get_initial_variables,
    input_shapes={name: x.shape for name, x in batches[0].items()},
    partitioner=partitioner,
  )
  params = traverse_util.flatten_dict(
    checkpoints.load_t5x_checkpoint(f"{folder}/t5x")["target"], sep="/"
  )
  dtype = jnp.dtype(prompted.config(case).param_dtype)
  params = {name: jnp.asarray(x, dtype) for name, x in params.items()}
  params["encoder/prompt/prompt"] = jnp.asarray(
    np.load(f"{folder}/prompts.npy")[0, : case.prompt]
  )
  state = train_state.FlaxOptimTrainState.create(
    model.optimizer_def,
    core.freeze(
      {
        "params": traverse_util.unflatten_dict(params, sep="/"),
        "params_axes": of_state.global_train_state_shape.params_axes,
      }
    ),
  )
  tuning = trainer.Trainer(
    model=model,
    train_state=state,
    partitioner=partitioner,
    eval_names=[],
    summary_dir=None,
    train_state_axes=of_state.train_state_axes,
    rng=jax.random.key(0),
    learning_rate_fn=utils.create_learning_rate_scheduler(
      factors="constant", base_learning_rate=prompted.LEARNING_RATE
    ),
    num_microbatches=None,
  )
  del state, params

  def call(i: int) -> Outcome:
    found = tuning.train(iter([batches[i]]), 1).result()
    tokens = np.sum(batches[i]["decoder_target_tokens"] > 0)
    return {"loss": found["loss"].value / tokens}

  return call
