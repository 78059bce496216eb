"""Tests of a run's first state: weights read, initialised or refused."""

import jax
import numpy as np
import pytest
import seqio
import started
import tiny

from prompt_tuning import prompts
from prompt_tuning.data import vocabulary as vocabulary_lib
from t5x import adafactor, checkpoints, utils
from t5x.input import datasets


def _dtypes(params):
  return {str(x.dtype) for x in jax.tree.leaves(params)}


def test_step_is_restored_with_the_weights(base):
  """Frozen weights may be bfloat16; trainable weights stay float32."""
  state, checkpoint = tiny.restore(base, dtype="bfloat16")
  assert int(state.step) == checkpoint.step == tiny.BASE_STEP
  assert _dtypes(state.frozen) == {"bfloat16"}
  assert _dtypes(state.trainable) == {"float32"}
  # The identity of a model does not depend on how it was read.
  assert checkpoints.fingerprint(state.frozen) == checkpoint.fingerprint
  model = tiny.make_model(adafactor.Adafactor(), with_prompt=False)
  state, _ = tiny.restore(base, model, dtype="bfloat16")
  assert _dtypes(state.trainable) == {"float32"}


@pytest.mark.slow
def test_weights_that_a_run_trained_are_read_as_it_left_them(base, tmp_path):
  """Evaluation reads trained weights exactly, although `dtype` is bfloat16."""
  model = tiny.make_model(adafactor.Adafactor(), with_prompt=False)
  trained = tiny.train(tmp_path, base, model, relative_steps=3).train_state
  initializer = tiny.make_initializer(model, trains=False)
  config = tiny.restore_config(tmp_path, dtype="bfloat16")
  state, _ = initializer.from_base_model(config, None)
  assert _dtypes(state.params) == {"float32"}
  jax.tree.map(np.testing.assert_array_equal, state.params, trained.params)


WIDER = prompts.from_array(np.zeros((tiny.PROMPT_LENGTH, 32), np.float32))


@pytest.mark.parametrize(
  ("model", "overrides", "message"),
  [
    (
      {"num_encoder_layers": 2},
      {},
      r"9 differences.*layers_1/attention/query/kernel is not in",
    ),
    (
      {"mlp_dim": 48},
      {"strict": False},
      r"encoder/layers_0/mlp/wi_0/kernel has shape \(16, 32\), expected "
      r"\(16, 48\)",
    ),
    (
      {"logits_via_embedding": True},
      {},
      "decoder/logits_dense/kernel of the checkpoint is not in",
    ),
    # No parameter falls back to its initialiser unless it is named.
    ({}, {"assignment_map": None}, "encoder/prompt/prompt is not in the"),
    ({}, {"assignment_map": [("(", None)]}, r"expression, got '\(': missing"),
    ({}, {"fallback_to_scratch": False}, "fallback_to_scratch is off"),
    ({"prompt_init": WIDER}, {}, r"Expected a prompt of shape \(4, 16\)"),
    ({"with_prompt": False}, {}, "matches none of the"),
  ],
)
def test_parameters_that_do_not_fit_are_named(base, model, overrides, message):
  with pytest.raises(ValueError, match=message):
    tiny.restore(base, tiny.make_model(**model), **overrides)


def test_two_layers_may_come_from_one(base):
  """The two layers have the same values in separate arrays."""
  state, checkpoint = tiny.restore(
    base,
    tiny.make_model(num_encoder_layers=2),
    assignment_map=(
      (r"^.*prompt.*$", None),
      (r"(target/encoder)/layers_1/(.*)", r"\1/layers_0/\2"),
    ),
  )
  first, second = (state.frozen["encoder"][f"layers_{i}"] for i in (0, 1))
  assert len(checkpoint.arrays) < len(jax.tree.leaves(state.frozen))
  jax.tree.map(np.testing.assert_array_equal, first, second)
  assert not set(map(id, jax.tree.leaves(first))) & set(
    map(id, jax.tree.leaves(second))
  )


def test_run_that_is_being_trained_is_named(copy, caplog):
  lock = started.LOCK_ELSEWHERE.replace("duration=1.0", "duration=60.0")
  (copy / "run.lock").write_text(lock)
  tiny.restore(copy, assignment_map=None)
  assert f"{copy} is being trained by process 5 on elsewhere" in caplog.text


def test_checkpoint_that_is_not_there(tmp_path):
  with pytest.raises(ValueError, match=r"No checkpoint at .*In .*nothing"):
    tiny.restore(tmp_path / "t5")
  for name in ("a", "b", "c", "d", "t4", "t5_small", "xyz"):
    (tmp_path / name).mkdir()
  with pytest.raises(ValueError, match=r"In .*: t4, t5_small, .*, 2 more\."):
    tiny.restore(tmp_path / "t5")


def test_what_a_checkpoint_has_and_starts_anew_is_said(base, tmp_path, caplog):
  state, _ = tiny.restore(base)
  with_prompt = checkpoints.save_base_checkpoint(
    str(tmp_path), 0, jax.tree.map(np.asarray, state.params), {}
  )
  assert "not read" not in caplog.text
  tiny.restore(with_prompt)
  assert "encoder/prompt/prompt, which are not read" in caplog.text


def test_parameter_that_the_mesh_cannot_divide_is_named():
  partitioner = tiny.make_partitioner()
  initializer = tiny.make_initializer(partitioner=partitioner)
  partitioner.mesh = jax.sharding.AbstractMesh((1, 3), ("data", "model"))
  with pytest.raises(ValueError, match=r"of shape \(.*\) .* into 3 along"):
    initializer._check_divided()


def test_another_vocabulary_and_too_few_embedding_rows_are_refused():
  model = tiny.make_model()
  vocabulary_lib.of_model(seqio.PassThroughVocabulary(400))
  with pytest.raises(ValueError, match="tokens would mean other words"):
    utils.verify_matching_vocabs(tiny.dataset_config(), model)
  model = tiny.make_model(vocab_size=64)
  with pytest.raises(ValueError, match="64 embedding rows for 259 pieces"):
    utils.verify_matching_vocabs(tiny.dataset_config(), model)
  # Inputs may have a separate vocabulary, but share the rows.
  model = tiny.make_model()
  model.input_vocabulary = seqio.ByteVocabulary(1000)
  with pytest.raises(ValueError, match="embedding rows for 1259 pieces"):
    datasets.for_model(tiny.dataset_config(), model)


def test_empty_split_is_refused():
  task = seqio.TaskRegistry.get(tiny.TASK)
  source = seqio.FunctionDataSource(
    lambda split, shuffle_files=False, seed=None: tiny.dataset("test").take(0),
    splits=["train"],
  )
  empty = task.replace(name="tiny_empty", source=source)
  # Training would end when the mixture draws from the empty task.
  for provider in (empty, seqio.Mixture("mixed", [task, empty], 1.0)):
    cfg = tiny.dataset_config(mixture_or_task_name=provider)
    with pytest.raises(ValueError, match="'train' of tiny_empty is empty"):
      utils.get_dataset(cfg, None, tiny.make_model().feature_converter_cls)
