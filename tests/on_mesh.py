"""Trains the tiny model on a mesh, in a process of its own.

  python on_mesh.py BASE JOBS [ADDRESS COUNT INDEX]

JOBS is JSON: `[[NAME, OUT, NUMBER...], ...]`, where NAME is that of a function
below. With an address it is one of several processes, which do them together.
"""

import functools
import itertools
import json
import os
import signal
import sys

import jax
import numpy as np
import tensorflow as tf
import tiny

from prompt_tuning.training import actions
from t5x import by_length, partitioning, trainer, utils
from t5x.runs import command_line


def batches(number):
  """The same global batches everywhere."""
  rng = np.random.default_rng(0)
  for _ in range(number):
    inputs = rng.integers(3, 200, (tiny.BATCH_SIZE, tiny.LENGTHS["inputs"]))
    targets = rng.integers(3, 200, (tiny.BATCH_SIZE, tiny.LENGTHS["targets"]))
    inputs[:, 9:] *= rng.integers(0, 2, (tiny.BATCH_SIZE, 1))
    yield {
      "encoder_input_tokens": inputs.astype(np.int32),
      "decoder_input_tokens": np.pad(targets, ((0, 0), (1, 0)))[:, :-1].astype(
        np.int32
      ),
      "decoder_target_tokens": targets.astype(np.int32),
      "decoder_loss_weights": np.ones_like(targets, np.int32),
    }


IN_TWO = functools.partial(trainer.Trainer, num_microbatches=2)


def start(base, num_partitions, trainer_cls=IN_TWO, dropout_rate=0.1):
  """A trainer of the tiny model's prompt, at the base model's step."""
  partitioner = tiny.make_partitioner(num_partitions)
  model = tiny.make_model(dropout_rate=dropout_rate)
  loop = tiny.make_trainer(trainer_cls, model, partitioner, base)
  return loop, model, partitioner


def losses_by_length(base, num_partitions):
  """Without dropout, whose masks depend on the order of the rows."""
  loop, _, partitioner = start(
    base, num_partitions, by_length.Trainer, dropout_rate=0.0
  )
  return losses_of(loop, partitioner)


def losses_of(loop, partitioner):
  """Trains three steps."""
  rows = rows_of_process(partitioner)
  return [
    loop.train_steps(
      iter([{name: x[rows] for name, x in batch.items()}]), num_steps=1
    )["loss"]
    for batch in batches(3)
  ]


def rows_of_process(partitioner):
  return np.array(partitioner.local_rows(tiny.BATCH_SIZE))


def run(base, num_partitions):
  loop, model, partitioner = start(base, num_partitions)
  losses = losses_of(loop, partitioner)
  dataset = tf.data.Dataset.from_tensor_slices(next(batches(1))).enumerate()
  outputs = {
    name: utils.get_infer_fn(fn, tiny.BATCH_SIZE, loop._axes, partitioner)(
      dataset, loop.train_state
    )
    for name, fn in (
      ("predictions", model.predict_batch),
      ("scores", model.score_batch),
    )
  }
  prompt = loop.train_state.trainable["encoder"]["prompt"]["prompt"]
  embedding = loop.train_state.frozen["token_embedder"]["embedding"]
  return {
    "losses": losses,
    "losses_by_length": losses_by_length(base, num_partitions),
    "prompt": np.asarray(prompt),
    "embedding_shards": len(
      {str(shard.index) for shard in embedding.global_shards}
    ),
    **{name: [x for _, x in output] for name, output in outputs.items()},
  }


def train(base, model_dir):
  """A run that is evaluated and saved at step 10, and goes on to step 13.

  All devices share one model, so that every process reads the same batches.
  """
  for steps in (3, 6):
    action = actions.SaveBestPrompt(
      model_dir, tiny.TASK, ".*", tiny.make_model().input_vocabulary
    )
    tiny.train(
      model_dir,
      base,
      relative_steps=steps,
      partitioner=tiny.make_partitioner(jax.device_count()),
      actions={"INFER_EVAL": [action]},
    )


def go_on(base, model_dir, num_partitions, steps):
  """A run that goes on to `steps`, on this mesh; the others share the batch."""
  return tiny.train(
    model_dir,
    base,
    relative_steps=steps,
    period=steps,
    partitioner=tiny.make_partitioner(num_partitions),
  )


class _Signal(trainer.BaseAction):
  """Sends the last process a SIGTERM, after four steps."""

  def run(self, train_state, metrics_by_task):
    is_last = jax.process_index() == jax.process_count() - 1
    if is_last and int(train_state.step) == tiny.BASE_STEP + 4:
      os.kill(os.getpid(), signal.SIGTERM)


def stop(base, model_dir):
  """A run of 1,000 steps, evaluated after every second; ends as it says."""
  with command_line.StopSignals() as signals:
    outcome = tiny.train(
      model_dir,
      base,
      relative_steps=1000,
      period=2,
      partitioner=tiny.make_partitioner(jax.device_count()),
      actions={"TRAIN": [_Signal()]},
      should_stop=signals.should_stop,
    )
  print(outcome.status, outcome.step)


def compare(base, out, *partitions):
  """Writes, for each number of partitions, what `run` returns."""
  results = {
    f"{number}/{name}": value
    for number in partitions
    for name, value in run(base, number).items()
  }
  if jax.process_index() == 0:
    np.savez(out, **results)


def take_turns(base, out, *partitions):
  """The same, where the devices of two processes take turns on the mesh.

  As those of hosts may on a TPU slice.
  """
  devices = jax.devices()
  half = len(devices) // 2
  pairs = zip(devices[:half], devices[half:], strict=True)
  with partitioning.using_devices(list(itertools.chain(*pairs))):
    compare(base, out, *partitions)


JOBS = {fn.__name__: fn for fn in (compare, take_turns, train, go_on, stop)}


def main(argv):
  base, jobs, *of_several = argv
  if of_several:
    address, count, index = of_several
    jax.config.update("jax_cpu_collectives_implementation", "gloo")
    jax.distributed.initialize(address, int(count), int(index))
  for name, out, *numbers in json.loads(jobs):
    JOBS[name](base, out, *numbers)


if __name__ == "__main__":
  main(sys.argv[1:])
