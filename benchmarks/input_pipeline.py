"""Measures whether the input pipeline keeps up with training.

  python benchmarks/input_pipeline.py --task=super_glue_rte --tfds_data_dir=D

Prints examples per second of batches as `t5x.train` reads them, tokenized on
the fly and from seqio's offline cache, in the first pass over the data and in
later ones, which seqio keeps in memory. Next to them it prints the rate of
training a prompt for T5 small, through the same command line.
"""

import t5x.input.task_lookup
import t5x.utils  # Before what imports TensorFlow, to keep that quiet.

# isort: split

import json
import pathlib
import subprocess
import sys
import tempfile
import time

from absl import app, flags, logging
import seqio

from prompt_tuning import tasks
from prompt_tuning.data import task_cache

FLAGS = flags.FLAGS
flags.DEFINE_string("task", "super_glue_rte", "The task.")
flags.DEFINE_integer("inputs", 256, "Length of the inputs, tokens.")
flags.DEFINE_integer("targets", 8, "Length of the targets, tokens.")
flags.DEFINE_integer("batch_size", 16, "Examples of a batch.")
flags.DEFINE_integer("steps", 8, "Training steps to time.")
flags.DEFINE_string("tfds_data_dir", None, "Where the TFDS data is.")
flags.DEFINE_string("checkpoint", "checkpoints/t5_small", "T5 small.")

_SECONDS = 5.0


def pipeline_rates(use_cached: bool) -> tuple[float, float]:
  """Returns examples per second of the first pass, and of later ones."""
  cfg = t5x.utils.DatasetConfig(
    mixture_or_task_name=FLAGS.task,
    task_feature_lengths={"inputs": FLAGS.inputs, "targets": FLAGS.targets},
    split="train",
    batch_size=FLAGS.batch_size,
    shuffle=True,
    seed=0,
    use_cached=use_cached,
    module="prompt_tuning.tasks",
  )
  count = cfg.num_input_examples()
  assert count, "these tasks know their size"
  passes = -(-count // FLAGS.batch_size)
  begin = time.monotonic()  # Small tasks are tokenized before the first batch.
  batches = t5x.utils.get_dataset(
    cfg, None, seqio.EncDecFeatureConverter
  ).as_numpy_iterator()

  def rate(seconds: float, at_least: int, start: float) -> float:
    done = 0
    while done < at_least or time.monotonic() - start < seconds:
      next(batches)
      done += 1
    return FLAGS.batch_size * done / (time.monotonic() - start)

  first = rate(0.0, passes, begin)
  return first, rate(_SECONDS, passes, time.monotonic())


def training_rate(folder: pathlib.Path) -> float:
  """Returns examples per second of training, without compilation."""
  bindings = {
    "MODEL_DIR": str(folder),
    "INITIAL_CHECKPOINT_PATH": FLAGS.checkpoint,
    "MIXTURE_OR_TASK_NAME": FLAGS.task,
    "TASK_FEATURE_LENGTHS": {"inputs": FLAGS.inputs, "targets": FLAGS.targets},
    "BATCH_SIZE": FLAGS.batch_size,
    "PROMPT_LENGTH": 20,
    "DROPOUT_RATE": 0.0,
    "TRAIN_STEPS_RELATIVE": 2 * FLAGS.steps,
    "STATS_PERIOD": FLAGS.steps,
    "EVAL_PERIOD": 2 * FLAGS.steps,
    "train.infer_eval_dataset_cfg": None,
    "train.train_eval_dataset_cfg": None,
  }
  subprocess.run(
    [
      *(sys.executable, "-m", "t5x.train"),
      "--gin_file=gin/models/t5_small_local.gin",
      "--gin_file=gin/methods/prompt_tuning.gin",
      "--gin_file=gin/prompts/sampled_vocab.gin",
      "--gin_file=gin/runs/train.gin",
      *(f"--gin.{name}={value!r}" for name, value in bindings.items()),
      *([f"--tfds_data_dir={FLAGS.tfds_data_dir}"] * bool(FLAGS.tfds_data_dir)),
    ],
    check=True,
  )
  last = (folder / "metrics.jsonl").read_text().splitlines()[-1]
  return json.loads(last)["train/timing/seqs_per_second"]


def main(argv: list[str]) -> None:
  if len(argv) > 1:
    raise app.UsageError(f"Expected flags only, got {argv[1:]}.")
  logging.set_verbosity(logging.ERROR)
  seqio.set_tfds_data_dir_override(FLAGS.tfds_data_dir)
  tasks.use_vocabulary(f"{FLAGS.checkpoint}/spiece.model")
  provider = t5x.input.task_lookup.find(
    FLAGS.task, "train", "prompt_tuning.tasks"
  )
  with tempfile.TemporaryDirectory() as folder:
    root = pathlib.Path(folder)
    for task in seqio.get_subtasks(provider):
      task_cache.write(task, root / "cache", ["train"])
    seqio.add_global_cache_dirs([str(root / "cache")])
    rates = {
      f"{kind}, {when}": rate
      for kind, use_cached in (("not cached", False), ("cached", True))
      for when, rate in zip(
        ("first pass", "later"), pipeline_rates(use_cached), strict=True
      )
    }
    training = training_rate(root / "run")
  print(f"{FLAGS.task}, batch {FLAGS.batch_size}, inputs {FLAGS.inputs}:")
  print(f"{'training step, T5 small':24} {training:10,.1f} examples/s")
  for name, rate in rates.items():
    print(f"{name:24} {rate:10,.0f} examples/s  {rate / training:7,.0f} times")


if __name__ == "__main__":
  app.run(main)
