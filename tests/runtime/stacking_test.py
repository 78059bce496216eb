"""Runs with scanned layers: the same steps, the same files as unrolled ones."""

import functools

from flax import traverse_util
import jax
import numpy as np
import pytest
import t5x_folders
import tiny

from prompt_tuning.methods import trainable
from t5x import adafactor, checkpoints, optimizers, trainer
from t5x.formats import stored_arrays

SIZES = {"num_encoder_layers": 2, "num_decoder_layers": 1, "dropout_rate": 0.0}
STEPS = 10


@pytest.fixture(scope="module")
def base(tmp_path_factory):
  return tiny.save_base(tmp_path_factory.mktemp("base"), **SIZES)


# With a factored moment for some matrices, and a whole one for others.
ADAFACTOR = adafactor.Adafactor(min_dim_size_to_factor=20, beta1=0.5)


def _model(trains, scan_layers):
  """A model whose prompt, MLPs or whole trains."""
  sizes = {**SIZES, "scan_layers": scan_layers}
  if trains == "prompt":
    return tiny.make_model(**sizes)
  mlps = traverse_util.ModelParamTraversal(trainable.matches_any([".*/mlp/.*"]))
  optimizer = ADAFACTOR
  if trains == "mlps":
    optimizer = optimizers.MultiOptimizer([(mlps, ADAFACTOR)])
  return tiny.make_model(optimizer, with_prompt=False, **sizes)


@pytest.mark.slow
@pytest.mark.parametrize("trains", ["prompt", "mlps", "model"])
def test_run_goes_on_in_the_other_form_and_takes_the_same_steps(
  base, tmp_path, trains
):
  """With the optimizer's state that the first form left."""
  ends = []
  for forms in ((False, False), (False, True), (True, False)):
    folder = tmp_path / str(forms)
    for scan_layers, steps in zip(forms, (STEPS, 2 * STEPS), strict=True):
      tiny.train(
        folder,
        base,
        _model(trains, scan_layers),
        relative_steps=steps,
        period=STEPS,
        trainer_cls=functools.partial(
          trainer.Trainer, learning_rate_fn=lambda step: 0.01
        ),
        infer_eval_dataset_cfg=None,
      )
    run = checkpoints.open_checkpoint(str(folder))
    assert run.step == tiny.BASE_STEP + 2 * STEPS
    ends.append({k: stored_arrays.read(x) for k, x in run.arrays.items()})
  check = functools.partial(np.testing.assert_allclose, atol=1e-4)
  for end in ends[1:]:
    jax.tree.map(check, end, ends[0])


def test_base_model_is_written_apart(base, tmp_path):
  state, before = tiny.restore(base, _model("model", True))
  path = checkpoints.save_base_checkpoint(str(tmp_path), 0, state.params, {})
  again = checkpoints.open_checkpoint(path)
  assert again.arrays.keys() == before.arrays.keys()
  # Of names, shapes, dtypes and values.
  assert again.fingerprint == before.fingerprint


@pytest.fixture
def flat(base):
  """The arrays of a model as T5X's scalable T5 keeps them."""
  state, _ = tiny.restore(base, _model("model", True))
  scanned = {}
  for name, array in traverse_util.flatten_dict(state.params, sep="/").items():
    array = np.asarray(array)
    if "attention/" in name:
      heads = (4, 4, -1) if "/out/" in name else (-1, 4, 4)
      array = array.reshape(len(array), *heads)
    if name.endswith("relpos_bias/rel_embedding"):
      number = SIZES[f"num_{name.partition('/')[0]}_layers"]
      name = name.replace("relpos_bias", "layers/relative_posemb")
      array = np.stack([array] * number)
    is_stacked = "/layers/" in name
    scanned[name] = np.moveaxis(array, 0, 1) if is_stacked else array
  return scanned


@pytest.mark.parametrize(
  ("write", "scan_layers"),
  [(t5x_folders.write_v3, True), (t5x_folders.write_orbax, False)],
)
def test_checkpoint_of_t5x_scanned_is_read(
  base, flat, tmp_path, write, scan_layers
):
  path = write(tmp_path, 7, flat)
  state, read = tiny.restore(path, _model("prompt", scan_layers))
  assert read.step == 7
  expected = checkpoints.open_checkpoint(base).fingerprint
  assert read.fingerprint == checkpoints.fingerprint(state.frozen) == expected


def test_shards_of_a_scanned_checkpoint_are_parts_of_heads(
  base, flat, tmp_path
):
  t5x_folders.write_v3(tmp_path, 7, flat)
  scanned, apart = map(checkpoints.open_checkpoint, (str(tmp_path), base))
  for kernel in ("query", "out"):
    name = f"encoder/layers_1/attention/{kernel}/kernel"
    index = (slice(3, 13), slice(5, 7))
    np.testing.assert_array_equal(
      scanned.arrays[name].open()(index), apart.arrays[name].open()(index)
    )


def test_layers_with_biases_of_their_own_are_refused(flat, tmp_path):
  flat["encoder/layers/relative_posemb/rel_embedding"][:, 1] += 1
  t5x_folders.write_v3(tmp_path, 7, flat)
  with pytest.raises(ValueError, match="the same in every layer"):
    checkpoints.open_checkpoint(str(tmp_path))


def test_part_of_the_layers_from_initialisers_is_refused(base):
  some = ((r"^.*(prompt|encoder/layers_1/mlp).*$", None),)
  with pytest.raises(ValueError, match="a source for every layer"):
    tiny.restore(base, _model("prompt", True), assignment_map=some)
