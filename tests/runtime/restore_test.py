"""How a state begins: what is read, what is initialised, what is refused."""

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
from t5x.formats import stored_arrays
from t5x.input import datasets


def _dtypes(params):
  return {str(x.dtype) for x in jax.tree.leaves(params)}


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_step_is_restored_with_the_weights(base, dtype):
  """Frozen weights may be bfloat16, what trains stays float32."""
  state, checkpoint = tiny.restore(base, dtype=dtype)
  assert int(state.step) == checkpoint.step == tiny.BASE_STEP
  assert (_dtypes(state.frozen), _dtypes(state.trainable)) == (
    {dtype},
    {"float32"},
  )
  # The identity of a model does not depend on how it was read.
  assert checkpoints.fingerprint(state.frozen) == checkpoint.fingerprint


def test_weights_that_train_stay_float32(base):
  model = tiny.make_model(adafactor.Adafactor(), with_prompt=False)
  state, _ = tiny.restore(base, model, dtype="bfloat16")
  assert _dtypes(state.trainable) == {"float32"}


@pytest.mark.slow
def test_weights_that_a_run_trained_are_read_as_it_left_them(base, tmp_path):
  """Where nothing trains: evaluation reads them as training did."""
  model = tiny.make_model(adafactor.Adafactor(), with_prompt=False)
  trained = tiny.train(tmp_path, base, model, relative_steps=3).train_state
  initializer = tiny.make_initializer(model, trains=False)
  config = tiny.restore_config(tmp_path, dtype="bfloat16")
  state, _ = initializer.from_base_model(config, None)
  assert _dtypes(state.params) == {"float32"}
  jax.tree.map(np.testing.assert_array_equal, state.params, trained.params)


def test_other_weights_have_another_fingerprint(base, tmp_path):
  other = tiny.save_base(tmp_path, seed=1)
  assert (
    checkpoints.open_checkpoint(other).fingerprint
    != checkpoints.open_checkpoint(base).fingerprint
  )


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
    # Nothing falls back to its initialiser unasked.
    ({}, {"assignment_map": None}, "encoder/prompt/prompt is not in the"),
    ({}, {"fallback_to_scratch": False}, "fallback_to_scratch is off"),
  ],
)
def test_parameters_that_do_not_fit_are_named(base, model, overrides, message):
  with pytest.raises(ValueError, match=message):
    tiny.restore(base, tiny.make_model(**model), **overrides)


def test_assignment_map_renames(base, tmp_path):
  params = {
    name: stored_arrays.read(x)
    for name, x in checkpoints.open_checkpoint(base).arrays.items()
  }
  names = {x: x.replace("encoder_norm", "final_norm") for x in params}
  other = traverse_util.unflatten_dict(
    {names[name]: x for name, x in params.items()}, sep="/"
  )
  renamed = checkpoints.save_base_checkpoint(str(tmp_path), 0, other, {})
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
  assert len(checkpoint.arrays) < len(jax.tree.leaves(state.frozen))
  for one, other in zip(
    jax.tree.leaves(first), jax.tree.leaves(second), strict=True
  ):
    assert one is not other
    np.testing.assert_array_equal(one, other)


def test_checkpoint_that_is_not_there(tmp_path):
  with pytest.raises(ValueError, match=r"No checkpoint at .*In .*nothing"):
    tiny.restore(tmp_path / "t5")
  with pytest.raises(ValueError, match="folders there: none"):
    tiny.restore(tmp_path)
  (tmp_path / "checkpoint_3").mkdir()
  with pytest.raises(ValueError, match="is not a base checkpoint"):
    tiny.restore(tmp_path)


def test_prompt_that_does_not_fit_is_refused(base):
  wrong = prompts.from_array(np.zeros((tiny.PROMPT_LENGTH, 8), np.float32))
  for model, message in (
    ({"prompt_init": wrong}, r"Expected a prompt of shape \(4, 16\)"),
    ({"with_prompt": False}, "matches none of the"),
  ):
    with pytest.raises(ValueError, match=message):
      tiny.restore(base, tiny.make_model(**model))


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


def test_too_few_embedding_rows_are_refused():
  model = tiny.make_model(vocab_size=64)
  with pytest.raises(ValueError, match="64 embedding rows for 259 pieces"):
    utils.verify_matching_vocabs(tiny.dataset_config(), model)
  # Inputs may have a vocabulary of their own, and share the rows.
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
  with pytest.raises(ValueError, match="'train' of tiny_empty is empty"):
    utils.get_dataset(
      tiny.dataset_config(mixture_or_task_name=empty),
      None,
      tiny.make_model().feature_converter_cls,
    )
