"""A T5 so small that a training run takes seconds, and a task for it."""

import functools
import io
import json
import pathlib
from typing import Any

from flax import traverse_util
import jax
import jax.numpy as jnp
import numpy as np
import sentencepiece
import seqio
import tensorflow as tf

from prompt_tuning import prompt_files, prompts
from prompt_tuning.data import metrics
from prompt_tuning.data import vocabulary as vocabulary_lib
from prompt_tuning.methods import trainable
from prompt_tuning.models.t5 import network
from prompt_tuning.training import actions, base_model
from t5x import (
  adafactor,
  checkpoints,
  decoding,
  gin_utils,
  models,
  optimizers,
  partitioning,
  trainer,
  utils,
)
from t5x.runs import evaluation, initialization, plan, training

TASK = "tiny_has_x"
OTHER_TASK = "tiny_other"
BATCH_SIZE = 8
LENGTHS = {"inputs": 12, "targets": 5}
PROMPT_LENGTH = 4
WIDTH = 16
BASE_STEP = 7


def dataset(split, shuffle_files=False, seed=None):
  del shuffle_files, seed
  of, size = {"train": (0, 64), "validation": (1, 20), "test": (2, 13)}[split]
  rng = np.random.default_rng(of)
  rows = {"inputs": [], "targets": [], "idx": list(range(size))}
  for _ in range(size):
    text = "".join(rng.choice(list("abcdefgh"), size=6))
    has_x = bool(rng.integers(2))
    rows["inputs"].append(text[:3] + "x" * has_x + text[3:])
    rows["targets"].append("yes" if has_x else "no")
  return tf.data.Dataset.from_tensor_slices(rows)


for _name in (TASK, OTHER_TASK):
  seqio.TaskRegistry.add(
    _name,
    seqio.FunctionDataSource(dataset, splits=["train", "validation", "test"]),
    preprocessors=[
      seqio.preprocessors.tokenize,
      seqio.preprocessors.append_eos_after_trim,
    ],
    output_features={
      name: seqio.Feature(
        vocabulary=vocabulary_lib.MODEL_VOCABULARY, add_eos=True
      )
      for name in ("inputs", "targets")
    },
    metric_fns=[metrics.accuracy],
  )


def config(**overrides) -> network.T5Config:
  return network.T5Config(
    **{
      "vocab_size": 384,
      "emb_dim": WIDTH,
      "num_heads": 4,
      "num_encoder_layers": 1,
      "num_decoder_layers": 1,
      "head_dim": 4,
      "mlp_dim": 32,
      "dtype": "float32",
      "dropout_rate": 0.1,
      **overrides,
    }
  )


def multi_optimizer(*patterns_and_optimizers) -> optimizers.MultiOptimizer:
  """Makes an optimizer from patterns, each group with its optimizer last."""
  return optimizers.MultiOptimizer(
    [
      (
        traverse_util.ModelParamTraversal(trainable.matches_any(patterns)),
        optimizer,
      )
      for *patterns, optimizer in patterns_and_optimizers
    ]
  )


def prompt_optimizer() -> optimizers.MultiOptimizer:
  own = adafactor.Adafactor(
    multiply_by_parameter_scale=False, weight_decay_rate=1e-5
  )
  return multi_optimizer((".*/prompt/.*", own))


def make_model(
  optimizer_def=None,
  prompt_init=None,
  with_prompt=True,
  decode_fn=decoding.beam_search,
  loss_normalizing_factor=None,
  **config_overrides,
) -> models.EncoderDecoderModel:
  """Makes a model that trains its prompt by default."""
  vocabulary = vocabulary_lib.of_model(seqio.ByteVocabulary())
  prompt = functools.partial(
    prompts.Prompt,
    length=PROMPT_LENGTH,
    prompt_init=prompt_init or prompts.random_uniform(),
  )
  return models.EncoderDecoderModel(
    module=network.Transformer(
      config(**config_overrides),
      network.Injections(prompt=prompt if with_prompt else None),
    ),
    input_vocabulary=vocabulary,
    output_vocabulary=vocabulary,
    optimizer_def=optimizer_def or prompt_optimizer(),
    decode_fn=decode_fn,
    z_loss=1e-4,
    loss_normalizing_factor=loss_normalizing_factor,
  )


def model_with(prompt, base) -> models.EncoderDecoderModel:
  """Makes a model whose prompt starts from a file for that base model."""
  vocabulary = make_model().input_vocabulary
  array = base_model.prompt_for_model(str(prompt), str(base), vocabulary)
  return make_model(prompt_init=prompts.from_array(array))


def make_partitioner(num_partitions=1) -> partitioning.PjitPartitioner:
  return partitioning.PjitPartitioner(
    num_partitions=num_partitions,
    logical_axis_rules=partitioning.standard_logical_axis_rules(
      additional_rules=[
        (name, None)
        for name in ("prompts", "prompt", "prompt_embed", "lora_rank")
      ]
    ),
  )


def input_shapes(batch_size=BATCH_SIZE):
  return {
    "encoder_input_tokens": (batch_size, LENGTHS["inputs"]),
    "decoder_input_tokens": (batch_size, LENGTHS["targets"]),
    "decoder_target_tokens": (batch_size, LENGTHS["targets"]),
    "decoder_loss_weights": (batch_size, LENGTHS["targets"]),
  }


def features(inputs, targets) -> dict[str, np.ndarray]:
  """Makes a batch of inputs [B, T] and targets [B, S]; 0 is padding."""
  return {
    "encoder_input_tokens": np.asarray(inputs, np.int32),
    "decoder_input_tokens": np.pad(
      np.asarray(targets, np.int32), ((0, 0), (1, 0))
    )[:, :-1],
    "decoder_target_tokens": np.asarray(targets, np.int32),
    "decoder_loss_weights": np.asarray(targets > 0, np.int32),
  }


def make_initializer(
  model=None, partitioner=None, batch_size=BATCH_SIZE, trains=True
) -> initialization.TrainStateInitializer:
  """Makes an initializer of a model's states; in inference, nothing trains."""
  model = model or make_model()
  return initialization.TrainStateInitializer(
    model.optimizer_def if trains else None,
    model.get_initial_variables,
    input_shapes(batch_size),
    partitioner or make_partitioner(),
  )


def restore(base, model=None, **overrides):
  """Returns the state from a base checkpoint, and the checkpoint."""
  return make_initializer(model).from_base_model(
    restore_config(base, **overrides), jax.random.key(0)
  )


def make_trainer(
  trainer_cls, model=None, partitioner=None, base=None, rate=0.3
) -> trainer.Trainer:
  """Makes a trainer of a model, from scratch or from a base model."""
  model = model or make_model()
  partitioner = partitioner or make_partitioner()
  initializer = make_initializer(model, partitioner)
  rng = jax.random.key(0)
  if base is None:
    state = initializer.from_scratch(rng)
  else:
    state, _ = initializer.from_base_model(restore_config(base), rng)
  return trainer_cls(
    model=model,
    train_state=state,
    partitioner=partitioner,
    train_state_axes=initializer.train_state_axes,
    rng=jax.random.key(1),
    learning_rate_fn=lambda step: jnp.float32(rate),
  )


def save_best_prompt(folder) -> actions.SaveBestPrompt:
  """Makes an action that keeps the best prompt of a run on the tiny task."""
  return actions.SaveBestPrompt(
    str(folder), TASK, ".*", make_model().input_vocabulary
  )


def save_base(folder, seed=0, **config_overrides) -> str:
  """Writes a randomly initialised base model, without a prompt."""
  model = make_model(with_prompt=False, **config_overrides)
  variables = jax.jit(  # Few programs instead of one for each operation.
    lambda rng: model.get_initial_variables(rng, input_shapes())
  )(jax.random.key(seed))
  return checkpoints.save_base_checkpoint(
    str(folder),
    BASE_STEP,
    jax.device_get(variables["params"]),
    {"name": "tiny"},
  )


def restore_config(path, **overrides) -> utils.RestoreCheckpointConfig:
  return utils.RestoreCheckpointConfig(
    **{
      "path": str(path),
      "assignment_map": ((r"^.*(prompt|delta).*$", None),),
      "fallback_to_scratch": True,
      "dtype": "float32",
      **overrides,
    }
  )


def dataset_config(**overrides) -> utils.DatasetConfig:
  return utils.DatasetConfig(
    **{
      "mixture_or_task_name": TASK,
      "task_feature_lengths": LENGTHS,
      "split": "train",
      "batch_size": BATCH_SIZE,
      "shuffle": True,
      "seed": 0,
      **overrides,
    }
  )


def train_arguments(model_dir, base, model=None, **overrides):
  """Makes arguments of `t5x.train`: 6 steps, evaluated and saved every 3."""
  evaluated = {"split": "validation", "shuffle": False}
  period = overrides.pop("period", 3)
  return {
    "model": model or make_model(),
    "train_dataset_cfg": dataset_config(),
    "train_eval_dataset_cfg": dataset_config(**evaluated),
    "infer_eval_dataset_cfg": dataset_config(
      **evaluated, task_feature_lengths=None
    ),
    "checkpoint_cfg": utils.CheckpointConfig(
      save=utils.SaveCheckpointConfig(
        period=period,
        keep=1,
        checkpointer_cls=functools.partial(
          checkpoints.SaveBestCheckpointer, metric_name_to_monitor=".*"
        ),
      ),
      restore=restore_config(base),
    ),
    "partitioner": make_partitioner(),
    "trainer_cls": functools.partial(
      trainer.Trainer,
      learning_rate_fn=optimizers.create_learning_rate_scheduler(
        factors="constant", base_learning_rate=0.3
      ),
    ),
    "model_dir": str(model_dir),
    "total_steps": None,
    "relative_steps": 6,
    "eval_steps": 2,
    "eval_period": period,
    "random_seed": 0,
    "summarize_config_fn": gin_utils.summarize_gin_config,
    **overrides,
  }


def record(folder) -> dict[str, Any]:
  """Returns the record of the run in a folder."""
  return json.loads((pathlib.Path(folder) / "record.json").read_text())


def lines(path) -> list[dict[str, Any]]:
  """Returns the values in a file of JSON lines."""
  return [json.loads(x) for x in pathlib.Path(path).read_text().splitlines()]


def assert_same_prompt(folder, other) -> None:
  """Compares the best prompts of two runs and the prompts' metadata."""
  (array, metadata), (expected, its_metadata) = (
    prompt_files.load_prompt(x / "prompt.safetensors") for x in (folder, other)
  )
  np.testing.assert_array_equal(array, expected)
  assert metadata == its_metadata


def edit_record(folder, **fields) -> None:
  """Changes fields in the record of the run in a folder."""
  text = json.dumps(record(folder) | fields)
  (pathlib.Path(folder) / "record.json").write_text(text)


def make_plan(model_dir, base, model=None, **overrides) -> plan.Plan:
  """Makes the plan of `train` without running it."""
  return plan.Plan(**train_arguments(model_dir, base, model, **overrides))


def train(model_dir, base, model=None, **overrides) -> plan.Outcome:
  """Runs `t5x.train` on `train_arguments`."""
  return training.train(**train_arguments(model_dir, base, model, **overrides))


def train_prompt(model_dir, base, **overrides) -> plan.Outcome:
  """Runs `t5x.train`, which keeps the best prompt by default."""
  actions = {"INFER_EVAL": [save_best_prompt(model_dir)]}
  return train(model_dir, base, **{"actions": actions, **overrides})


def evaluate(folder, base, model=None, restored=None, **overrides):
  """Evaluates the validation split in a folder; returns the metrics.

  Args:
    folder: The folder of the evaluation.
    base: The folder of the checkpoint.
    model: The model.
    restored: Overrides of `restore_config`.
    **overrides: Other arguments.
  """
  return evaluation.evaluate(
    model=model or make_model(),
    dataset_cfg=dataset_config(
      split="validation", shuffle=False, task_feature_lengths=None
    ),
    restore_checkpoint_cfg=restore_config(base, **(restored or {})),
    partitioner=make_partitioner(),
    output_dir=str(folder),
    fallback_init_rng=0,
    **overrides,
  )


def train_sentencepiece(
  path,
  texts=("a boat left the harbour", "the boat came back"),
  vocab_size=19,
  **settings,
) -> str:
  """Trains a vocabulary with T5's ids on texts; returns its file."""
  model = io.BytesIO()
  sentencepiece.SentencePieceTrainer.train(
    sentence_iterator=iter(texts),
    model_writer=model,
    vocab_size=vocab_size,
    **{"pad_id": 0, "eos_id": 1, "unk_id": 2, "bos_id": -1, "minloglevel": 2},
    **settings,
  )
  path.write_bytes(model.getvalue())
  return str(path)
