"""Measures whether the input pipeline keeps up with training.

  python benchmarks/input_pipeline.py --task=super_glue_rte --tfds_data_dir=D

Prints the examples per second that `t5x.train` can read, tokenized on the fly
and from seqio's offline cache, in the first pass over the data and in later
passes, for which seqio keeps them in memory. For comparison, it prints the rate
of training a prompt for T5 small, through the same command line.
"""

import t5x.input.datasets
import t5x.utils  # Before any import of TensorFlow, to keep it quiet.

# isort: split

import argparse
import pathlib
import tempfile
import time

from absl import logging
import seqio

import harness
from prompt_tuning import tasks
from prompt_tuning.data import task_cache

_MODULE = "prompt_tuning.tasks"
_CHECKPOINT = "checkpoints/t5_small"


def pipeline_rates(
  args: argparse.Namespace, use_cached: bool, seconds: float = 5.0
) -> tuple[float, float]:
  """Returns examples per second of the first pass, and of later passes."""
  cfg = t5x.utils.DatasetConfig(
    mixture_or_task_name=args.task,
    task_feature_lengths={"inputs": args.inputs, "targets": args.targets},
    split="train",
    batch_size=args.batch_size,
    shuffle=True,
    seed=0,
    use_cached=use_cached,
    module=_MODULE,
  )
  count = cfg.num_input_examples()
  assert count, "these tasks have known sizes"
  passes = -(-count // args.batch_size)
  begin = time.monotonic()  # Small tasks are tokenized before the first batch.
  batches = t5x.utils.get_dataset(
    cfg, None, seqio.EncDecFeatureConverter
  ).as_numpy_iterator()

  def rate(seconds: float, start: float) -> float:
    done = 0
    while done < passes or time.monotonic() - start < seconds:
      next(batches)
      done += 1
    return args.batch_size * done / (time.monotonic() - start)

  first = rate(0.0, begin)
  return first, rate(seconds, time.monotonic())


def training_rate(args: argparse.Namespace, folder: pathlib.Path) -> float:
  """Returns examples per second of training, without compilation."""
  lines = harness.train(
    folder,
    (
      *("models/t5_small_local", "methods/prompt_tuning"),
      *("prompts/sampled_vocab", "runs/train"),
    ),
    {
      "INITIAL_CHECKPOINT_PATH": _CHECKPOINT,
      "MIXTURE_OR_TASK_NAME": args.task,
      "TASK_FEATURE_LENGTHS": {"inputs": args.inputs, "targets": args.targets},
      "BATCH_SIZE": args.batch_size,
      "PROMPT_LENGTH": 20,
      "DROPOUT_RATE": 0.0,
      "TRAIN_STEPS_RELATIVE": 2 * args.steps,
      "STATS_PERIOD": args.steps,
      "EVAL_PERIOD": 2 * args.steps,
      "train.infer_eval_dataset_cfg": None,
      "train.train_eval_dataset_cfg": None,
    },
    [f"--tfds_data_dir={args.tfds_data_dir}"] if args.tfds_data_dir else (),
  )
  return lines[-1]["train/timing/seqs_per_second"]


def main() -> None:
  parser = harness.parser(__doc__)
  add = parser.add_argument
  add("--task", default="super_glue_rte")
  add("--inputs", type=int, default=256, help="length, tokens")
  add("--targets", type=int, default=8, help="length, tokens")
  add("--batch_size", type=int, default=16, help="examples")
  add("--steps", type=int, default=8, help="training steps to time")
  add("--tfds_data_dir", help="the folder of TFDS data")
  args = parser.parse_args()
  logging.set_verbosity(logging.ERROR)
  seqio.set_tfds_data_dir_override(args.tfds_data_dir)
  tasks.use_vocabulary(f"{_CHECKPOINT}/spiece.model")
  provider = t5x.input.datasets.find_task(args.task, "train", _MODULE)
  with tempfile.TemporaryDirectory() as folder:
    root = pathlib.Path(folder)
    for task in seqio.get_subtasks(provider):
      task_cache.write(task, root / "cache", ["train"])
    seqio.add_global_cache_dirs([str(root / "cache")])
    rates = {
      f"{kind}, {when}": rate
      for kind, use_cached in (("not cached", False), ("cached", True))
      for when, rate in zip(
        ("first pass", "later"), pipeline_rates(args, use_cached), strict=True
      )
    }
    training = training_rate(args, root / "run")
  print(f"{args.task}, batch {args.batch_size}, inputs {args.inputs}:")
  print(f"{'training step, T5 small':24} {training:10,.1f} examples/s")
  for name, rate in rates.items():
    print(f"{name:24} {rate:10,.0f} examples/s  {rate / training:7,.0f} times")


if __name__ == "__main__":
  main()
