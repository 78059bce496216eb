"""A script that trains the tiny model on a mesh, in a separate process.

  python on_mesh.py BASE JOBS [ADDRESS COUNT INDEX]

JOBS is JSON: `[[NAME, OUT, ARGUMENT...], ...]`, where NAME is the name of a
function below. With an address, several processes share the jobs.
"""

import dataclasses
import functools
import hashlib
import itertools
import json
import os
import pathlib
import signal
import sys

import gin
import jax
import numpy as np
import tensorflow as tf
import tiny
import tiny_gin

from prompt_tuning.training import tuning
from t5x import by_length, checkpoints, partitioning, trainer, utils
from t5x.runs import command_line


def batches(number):
  """Yields global batches, the same ones in every process."""
  rng = np.random.default_rng(0)
  for _ in range(number):
    inputs = rng.integers(3, 200, (tiny.BATCH_SIZE, tiny.LENGTHS["inputs"]))
    targets = rng.integers(3, 200, (tiny.BATCH_SIZE, tiny.LENGTHS["targets"]))
    inputs[:, 9:] *= rng.integers(0, 2, (tiny.BATCH_SIZE, 1))
    yield tiny.features(inputs, targets)


IN_TWO = functools.partial(trainer.Trainer, num_microbatches=2)


def start(base, num_partitions, trainer_cls=IN_TWO, dropout_rate=0.1):
  """Makes a trainer of the tiny model's prompt, at the base model's step."""
  partitioner = tiny.make_partitioner(num_partitions)
  model = tiny.make_model(dropout_rate=dropout_rate)
  config = checkpoints.open_checkpoint(base).metadata.get("config")
  if config is not None:
    model = tuning.make_model(
      dataclasses.replace(config, dtype="float32", dropout_rate=dropout_rate),
      model.input_vocabulary,
      model.module.injections,
      model.optimizer_def,
    )
  loop = tiny.make_trainer(trainer_cls, model, partitioner, base)
  return loop, model, partitioner


def losses_of(loop, partitioner, steps=3):
  """Trains some steps and returns their losses."""
  rows = np.array(partitioner.local_rows(tiny.BATCH_SIZE))
  return [
    loop.train_steps(
      iter([{name: x[rows] for name, x in batch.items()}]), num_steps=1
    )["loss"]
    for batch in batches(steps)
  ]


def run(base, num_partitions):
  loop, model, partitioner = start(base, num_partitions)
  losses = losses_of(loop, partitioner)
  dataset = tf.data.Dataset.from_tensor_slices(next(batches(1))).enumerate()
  outputs = {
    name: utils.get_infer_fn(
      fn, tiny.BATCH_SIZE, loop.train_state_axes, partitioner
    )(dataset, loop.train_state)
    for name, fn in (
      ("predictions", model.predict_batch),
      ("scores", model.score_batch),
    )
  }
  (prompt,) = jax.tree.leaves(loop.train_state.trainable)
  embedding = loop.train_state.frozen["token_embedder"]["embedding"]
  return {
    "losses": losses,
    "prompt": np.asarray(prompt),
    "embedding_shards": len(
      {str(shard.index) for shard in embedding.global_shards}
    ),
    **{name: [x for _, x in output] for name, output in outputs.items()},
  }


def run_by_length(base, num_partitions):
  # No dropout, because its masks depend on the order of the rows.
  loop, _, partitioner = start(
    base, num_partitions, by_length.Trainer, dropout_rate=0.0
  )
  return {"losses_by_length": losses_of(loop, partitioner, steps=2)}


RUNS = {"padded": run, "by length": run_by_length}


def compare(base, out, number, *runs):
  """Writes the results of some `RUNS` with a number of partitions."""
  results = {}
  for name in runs:
    results |= RUNS[name](base, number)
  if jax.process_index() == 0:
    np.savez(out, **results)


def take_turns(base, out, *arguments):
  """Compares while the devices of two processes take turns on the mesh.

  The devices of hosts may do so on a TPU slice.
  """
  devices = jax.devices()
  half = len(devices) // 2
  pairs = zip(devices[:half], devices[half:], strict=True)
  with partitioning.using_devices(list(itertools.chain(*pairs))):
    compare(base, out, *arguments)


def go_on(base, model_dir, num_partitions, steps):
  """Continues a run to `steps` on this mesh; other devices share the batch."""
  return tiny.train_prompt(
    model_dir,
    base,
    relative_steps=steps,
    period=steps,
    partitioner=tiny.make_partitioner(num_partitions),
  )


class _Signal(trainer.BaseAction):
  """An action that sends the last process a SIGTERM after four steps."""

  def run(self, train_state, metrics_by_task):
    is_last = jax.process_index() == jax.process_count() - 1
    if is_last and int(train_state.step) == tiny.BASE_STEP + 4:
      os.kill(os.getpid(), signal.SIGTERM)


def stop(base, model_dir):
  """Starts a run of 1,000 steps that `_Signal` stops; prints how it ended."""
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


# A prompt's file -> the programs that run with it. Each way to read a base
# model occurs once, so not every program needs every prompt.
PROMPTS = {
  "class_labels": ("train", "eval", "infer"),
  "sampled_vocab": ("train",),
  "from_file": ("infer",),
}


def prompts(_, out, base, *names):
  """Runs gin files for prompts, on a model that all devices share."""
  for prompt in names:
    folder = pathlib.Path(out) / prompt
    macros = {"INITIAL_CHECKPOINT_PATH": base}
    evaluated = {"CHECKPOINT_PATH": str(folder / "train")}
    if prompt == "from_file":
      first = pathlib.Path(out) / "class_labels"
      macros["PROMPT_FILE"] = str(first / "train" / "prompt.safetensors")
      evaluated = {}
    else:
      macros["PROMPT_LENGTH"] = tiny.PROMPT_LENGTH
    if prompt == "class_labels":
      macros["CLASS_LABELS"] = ["yes", "no"]
    for program in PROMPTS[prompt]:
      tiny_gin.configure_files(
        program,
        ["gin/methods/prompt_tuning.gin", f"gin/prompts/{prompt}.gin"],
        [f"partitioning.PjitPartitioner.num_partitions = {jax.device_count()}"]
        + ["train_script.train.train_eval_dataset_cfg = None"]
        * (program == "train"),
        **macros,
        **{
          "train": {
            "MODEL_DIR": str(folder / "train"),
            "TRAIN_STEPS_RELATIVE": 2,
            "EVAL_PERIOD": 2,
            "TASK_FEATURE_LENGTHS": tiny.LENGTHS,
          },
          "eval": {"EVAL_OUTPUT_DIR": str(folder / "eval"), **evaluated},
          "infer": {
            "INFER_OUTPUT_DIR": str(folder / "infer"),
            "MODE": "score",
            "TASK_FEATURE_LENGTHS": tiny.LENGTHS,
            **evaluated,
          },
        }[program],
      )
      gin.get_configurable(tiny_gin.PROGRAMS[program])()


def read(base, _):
  """Reads a model whose arrays are divided among processes by the last axis.

  The printed line is JSON: the fingerprint, and parameter -> [[start, stop] of
  the last axis, SHA-256 of that part].
  """
  checkpoint = checkpoints.open_checkpoint(base)
  mesh = jax.make_mesh((jax.device_count(),), ("part",))

  def sharding(shape):
    axes = [None] * (len(shape) - 1) + ["part"]
    return jax.sharding.NamedSharding(mesh, jax.sharding.PartitionSpec(*axes))

  found = checkpoint.read(
    {
      name: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=sharding(x.shape))
      for name, x in checkpoint.arrays.items()
    }
  )
  parts = {}
  for name, array in found.items():
    (shard,) = array.addressable_shards
    part = shard.index[-1]
    digest = hashlib.sha256(np.asarray(shard.data).tobytes()).hexdigest()
    parts[name] = [[part.start or 0, part.stop], digest]
  print(json.dumps({"fingerprint": checkpoint.fingerprint, "parts": parts}))


FUNCTIONS = compare, take_turns, go_on, stop, prompts, read
JOBS = {fn.__name__: fn for fn in FUNCTIONS}


def main(argv):
  base, jobs, *of_several = argv
  if of_several:
    address, count, index = of_several
    jax.config.update("jax_cpu_collectives_implementation", "gloo")
    jax.distributed.initialize(address, int(count), int(index))
  for name, out, *arguments in json.loads(jobs):
    JOBS[name](base, out, *arguments)


if __name__ == "__main__":
  main(sys.argv[1:])
