"""How a state begins: what is read, what is initialised, what is refused."""

import functools

from flax import traverse_util
import jax
import numpy as np
import pytest
import seqio
import tiny

from prompt_tuning import prompts
from prompt_tuning.data import vocabulary as vocabulary_lib
from prompt_tuning.methods import trainable
from t5x import adafactor, checkpoints, optimizers, utils
from t5x.input import task_binding


def test_step_is_restored_with_the_weights(base):
  state, checkpoint = tiny.restore(base)
  assert int(state.step) == checkpoint.step == tiny.BASE_STEP
  assert checkpoints.fingerprint(state.frozen) == checkpoint.fingerprint


def test_frozen_weights_may_be_bfloat16_and_the_prompt_stays_float32(base):
  state, checkpoint = tiny.restore(base, dtype="bfloat16")
  assert {str(x.dtype) for x in jax.tree.leaves(state.frozen)} == {"bfloat16"}
  assert {str(x.dtype) for x in jax.tree.leaves(state.trainable)} == {"float32"}
  # The identity of a model does not depend on how it was read.
  assert checkpoints.fingerprint(state.frozen) == checkpoint.fingerprint


def test_weights_that_train_stay_float32(base):
  model = tiny.make_model(adafactor.Adafactor(), with_prompt=False)
  state, _ = tiny.restore(base, model, dtype="bfloat16")
  assert {str(x.dtype) for x in jax.tree.leaves(state.trainable)} == {"float32"}


@pytest.mark.slow
def test_weights_that_a_run_trained_are_read_as_it_left_them(base, tmp_path):
  """Where nothing trains: evaluation reads them as training did."""
  model = tiny.make_model(adafactor.Adafactor(), with_prompt=False)
  trained = tiny.train(tmp_path, base, model, relative_steps=3).train_state
  initializer = tiny.make_initializer(model, trains=False)
  config = tiny.restore_config(tmp_path, dtype="bfloat16")
  state, _ = initializer.from_base_model(config, None)
  assert {str(x.dtype) for x in jax.tree.leaves(state.params)} == {"float32"}
  jax.tree.map(np.testing.assert_array_equal, state.params, trained.params)


def test_other_weights_have_another_fingerprint(base, tmp_path):
  other = tiny.save_base(tmp_path, seed=1)
  assert (
    checkpoints.open_checkpoint(other).fingerprint
    != checkpoints.open_checkpoint(base).fingerprint
  )


def test_parameters_that_do_not_fit_are_named(base):
  with pytest.raises(
    ValueError,
    match=r"9 differences.*layers_1/attention/query/kernel is not in",
  ):
    tiny.restore(base, tiny.make_model(num_encoder_layers=2))
  with pytest.raises(
    ValueError,
    match=r"encoder/layers_0/mlp/wi_0/kernel has shape \(16, 32\), expected "
    r"\(16, 48\)",
  ):
    tiny.restore(base, tiny.make_model(mlp_dim=48), strict=False)

  with pytest.raises(
    ValueError, match="decoder/logits_dense/kernel of the checkpoint is not in"
  ):
    tiny.restore(base, tiny.make_model(logits_via_embedding=True))


def test_nothing_falls_back_to_its_initialiser_unasked(base):
  with pytest.raises(ValueError, match="encoder/prompt/prompt is not in the"):
    tiny.restore(base, assignment_map=None)
  with pytest.raises(ValueError, match="fallback_to_scratch is off"):
    tiny.restore(base, fallback_to_scratch=False)


def test_assignment_map_renames(base, tmp_path):
  checkpoint = checkpoints.open_checkpoint(base)
  host = jax.sharding.SingleDeviceSharding(jax.devices()[0])
  params = checkpoint.read(
    {
      name: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=host)
      for name, x in checkpoint.shapes.items()
    }
  )
  renamed = checkpoints.save_base_checkpoint(
    str(tmp_path),
    0,
    traverse_util.unflatten_dict(
      {
        name.replace("encoder_norm", "final_norm"): np.asarray(x)
        for name, x in params.items()
      },
      sep="/",
    ),
    {},
  )
  state, _ = tiny.restore(
    renamed,
    assignment_map=(
      (r"^.*prompt.*$", None),
      (r"(target/encoder)/encoder_norm/(.*)", r"\1/final_norm/\2"),
    ),
  )
  np.testing.assert_array_equal(
    state.frozen["encoder"]["encoder_norm"]["scale"],
    params["encoder/encoder_norm/scale"],
  )


def test_two_layers_may_come_from_one(base):
  """And the one that trains is an array of its own."""
  state, checkpoint = tiny.restore(
    base,
    tiny.make_model(num_encoder_layers=2),
    assignment_map=(
      (r"^.*prompt.*$", None),
      (r"(target/encoder)/layers_1/(.*)", r"\1/layers_0/\2"),
    ),
  )
  first, second = (state.frozen["encoder"][f"layers_{i}"] for i in (0, 1))
  assert len(checkpoint.shapes) < len(jax.tree.leaves(state.frozen))
  for one, other in zip(
    jax.tree.leaves(first), jax.tree.leaves(second), strict=True
  ):
    assert one is not other
    np.testing.assert_array_equal(one, other)


def test_checkpoint_that_is_not_there(base, tmp_path):
  with pytest.raises(ValueError, match=r"No checkpoint at .*In .*nothing"):
    tiny.restore(tmp_path / "t5")
  with pytest.raises(ValueError, match="steps there: none"):
    tiny.restore(tmp_path)
  with pytest.raises(ValueError, match=r"No checkpoint_8 .*there: \[7\]"):
    checkpoints.find_checkpoint(str(base.rpartition("/")[0]), step=8)
  (tmp_path / "checkpoint_3").mkdir()
  with pytest.raises(ValueError, match="is not a base checkpoint"):
    tiny.restore(tmp_path)


def test_prompt_of_another_width_is_refused(base):
  wrong = prompts.from_array(np.zeros((tiny.PROMPT_LENGTH, 8), np.float32))
  with pytest.raises(ValueError, match=r"Expected a prompt of shape \(4, 16\)"):
    tiny.restore(base, tiny.make_model(prompt_init=wrong))


def test_prompt_pattern_that_matches_nothing_is_refused(base):
  with pytest.raises(ValueError, match=r"matches none of the"):
    tiny.restore(base, tiny.make_model(with_prompt=False))


def test_each_pattern_has_to_match(base):
  one_of_two = trainable.matches_any([".*/prompt/.*", ".*/promt/.*"])
  optimizer = optimizers.MultiOptimizer(
    [(traverse_util.ModelParamTraversal(one_of_two), adafactor.Adafactor())]
  )
  with pytest.raises(ValueError, match=r"\.\*/promt/\.\*'\], matches none"):
    tiny.restore(base, tiny.make_model(optimizer))


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


def test_task_and_model_of_different_vocabularies_are_refused():
  model = tiny.make_model()
  vocabulary_lib.of_model(seqio.PassThroughVocabulary(400))
  with pytest.raises(ValueError, match="tokens would mean other words"):
    utils.verify_matching_vocabs(tiny.dataset_config(), model)


def test_inputs_of_more_pieces_than_embedding_rows_are_refused():
  """Inputs may have a vocabulary of their own, and share the rows."""
  model = tiny.make_model()
  model.input_vocabulary = seqio.ByteVocabulary(1000)
  with pytest.raises(ValueError, match="embedding rows for 1259 pieces"):
    task_binding.for_model(tiny.dataset_config(), model)


def test_too_few_embedding_rows_are_refused():
  model = tiny.make_model(vocab_size=64)
  with pytest.raises(ValueError, match="64 embedding rows for 259 pieces"):
    utils.verify_matching_vocabs(tiny.dataset_config(), model)


def test_empty_split_is_refused():
  import tensorflow as tf

  name = "tiny_empty"
  if name not in seqio.TaskRegistry.names():
    task = seqio.get_mixture_or_task(tiny.TASK)
    seqio.TaskRegistry.add(
      name,
      seqio.FunctionDataSource(
        lambda split, shuffle_files=False, seed=None: tf.data.Dataset.zip(
          {
            "inputs": tf.data.Dataset.from_tensor_slices(
              tf.constant([], tf.string)
            ),
            "targets": tf.data.Dataset.from_tensor_slices(
              tf.constant([], tf.string)
            ),
          }
        ),
        splits=["train"],
      ),
      preprocessors=[
        seqio.preprocessors.tokenize,
        seqio.preprocessors.append_eos_after_trim,
      ],
      output_features=task.output_features,
    )
  model = tiny.make_model()
  with pytest.raises(ValueError, match="'train' of tiny_empty is empty"):
    utils.get_dataset(
      tiny.dataset_config(mixture_or_task_name=name),
      None,
      functools.partial(model.feature_converter_cls),
    )
