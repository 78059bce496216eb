"""Tests that runs with scanned layers equal runs with unrolled ones."""

import functools

import jax
import numpy as np
import on_mesh
import pytest
import t5x_folders
import tiny

from prompt_tuning.injections import Injections
from prompt_tuning.methods import lora
from t5x import adafactor, checkpoints, trainer
from t5x.formats import stacking, stored_arrays

SIZES = {
  "num_encoder_layers": 2,
  "num_decoder_layers": 1,
  "dropout_rate": 0.0,
}
STEPS = 20


@pytest.fixture(scope="module")
def base(tmp_path_factory):
  return tiny.save_base(tmp_path_factory.mktemp("base"), **SIZES)


# It has a factored moment for some matrices and a whole one for others.
ADAFACTOR = adafactor.Adafactor(min_dim_size_to_factor=20, beta1=0.5)


def _model(method, scan_layers):
  sizes = {**SIZES, "scan_layers": scan_layers}
  if method == "prompt":
    return tiny.make_model(**sizes)
  if method == "model":
    return tiny.make_model(ADAFACTOR, with_prompt=False, **sizes)
  optimizer = tiny.multi_optimizer((".*/delta/.*", ADAFACTOR))
  model = tiny.make_model(optimizer, with_prompt=False, **sizes)
  delta = functools.partial(lora.LowRankDelta, rank=2, alpha=4)
  model.module = model.module.clone(injections=Injections(delta=delta))
  return model


class _Run:
  """A training loop and its checkpoints in a folder."""

  def __init__(self, method, scan_layers, base, folder):
    self.loop = tiny.make_trainer(
      trainer.Trainer, _model(method, scan_layers), base=base, rate=0.01
    )
    self.checkpointer = checkpoints.Checkpointer(
      self.loop.train_state, self.loop.partitioner, str(folder)
    )

  @property
  def frozen(self):
    return self.loop.train_state.frozen

  def save(self):
    self.checkpointer.save_run(self.loop.train_state, {"evals": []})
    self.checkpointer.wait()

  def restore(self):
    changed, _ = self.checkpointer.restore_run(self.loop.train_state_axes)
    self.loop.train_state = changed.replace(frozen=self.frozen)

  def train(self):
    return self.loop.train_steps(on_mesh.batches(STEPS), STEPS)["loss"]

  def changed(self):
    """Returns trained weights and optimizer state by their names on disk."""
    flat = {
      jax.tree_util.keystr(path, simple=True, separator="/"): x
      for path, x in jax.tree_util.tree_leaves_with_path(
        self.loop.train_state.replace(frozen={})
      )
    }
    return stacking.take_apart(jax.device_get(flat))


def _assert_equal(a, b, atol):
  assert a.keys() == b.keys()
  for name in a:
    np.testing.assert_allclose(a[name], b[name], atol=atol, err_msg=name)


@pytest.mark.slow
@pytest.mark.parametrize("method", ["prompt", "lora", "model"])
def test_run_goes_on_in_the_other_form_and_takes_the_same_steps(
  base, tmp_path, method
):
  unrolled = _Run(method, False, base, tmp_path)
  unrolled.save()
  scanned = _Run(method, True, base, tmp_path)
  if unrolled.frozen:
    fingerprint = checkpoints.fingerprint(unrolled.frozen)
    assert checkpoints.fingerprint(scanned.frozen) == fingerprint
  scanned.restore()
  _assert_equal(scanned.changed(), unrolled.changed(), atol=0)

  losses = [run.train() for run in (unrolled, scanned)]
  assert losses[0] == pytest.approx(losses[1], rel=1e-5)
  _assert_equal(scanned.changed(), unrolled.changed(), atol=1e-4)

  scanned.save()
  unrolled.restore()
  _assert_equal(scanned.changed(), unrolled.changed(), atol=0)


def test_base_model_is_written_apart(base, tmp_path):
  state, _ = tiny.restore(base, _model("model", True))
  path = checkpoints.save_base_checkpoint(str(tmp_path), 0, state.params, {})
  again, before = map(checkpoints.open_checkpoint, (path, base))
  assert again.arrays.keys() == before.arrays.keys()
  for name, array in again.arrays.items():
    assert array.shape == before.arrays[name].shape
    assert array.dtype == before.arrays[name].dtype
  assert again.fingerprint == before.fingerprint


@pytest.fixture
def flat(base):
  """The arrays of a model as T5X's scalable T5 keeps them."""
  apart = checkpoints.open_checkpoint(base)
  flat = {k: stored_arrays.read(x) for k, x in apart.arrays.items()}
  scanned = {}
  for name, array in flat.items():
    stack, _, rest = name.partition("/")
    if rest == "relpos_bias/rel_embedding":
      number = SIZES[f"num_{stack}_layers"]
      name = f"{stack}/layers/relative_posemb/rel_embedding"
      array = np.stack([array] * number, axis=1)
    elif rest.startswith("layers_0/"):
      rest = rest.removeprefix("layers_0/")
      parts = [
        flat[f"{stack}/layers_{i}/{rest}"]
        for i in range(SIZES[f"num_{stack}_layers"])
      ]
      if "attention/" in rest and rest.endswith("kernel"):
        heads = (4, 4)
        shape = (*heads, -1) if "/out/" in rest else (-1, *heads)
        parts = [part.reshape(shape) for part in parts]
      name, array = f"{stack}/layers/{rest}", np.stack(parts, axis=1)
    elif rest.startswith("layers_"):
      continue
    scanned[name] = array
  return scanned


@pytest.mark.parametrize(
  ("write", "scan_layers"),
  [(t5x_folders.write_v3, True), (t5x_folders.write_orbax, False)],
)
def test_checkpoint_of_t5x_scanned_is_read(
  base, flat, tmp_path, write, scan_layers
):
  path = write(tmp_path, 7, flat)
  state, found = tiny.restore(path, _model("prompt", scan_layers))
  assert found.step == 7
  expected = checkpoints.open_checkpoint(base).fingerprint
  assert found.fingerprint == expected
  assert checkpoints.fingerprint(state.frozen) == expected


def test_shards_of_a_scanned_checkpoint_are_parts_of_heads(
  base, flat, tmp_path
):
  t5x_folders.write_v3(tmp_path, 7, flat, "gfile")
  scanned, apart = map(checkpoints.open_checkpoint, (str(tmp_path), base))
  for kernel in ("query", "out"):
    name = f"encoder/layers_1/attention/{kernel}/kernel"
    index = (slice(3, 13), slice(5, 7))
    np.testing.assert_array_equal(
      scanned.arrays[name].open()(index), apart.arrays[name].open()(index)
    )


def test_layers_with_biases_of_their_own_are_refused(flat, tmp_path):
  flat["encoder/layers/relative_posemb/rel_embedding"][:, 1] += 1
  t5x_folders.write_v3(tmp_path, 7, flat, "gfile")
  with pytest.raises(ValueError, match="the same in every layer"):
    checkpoints.open_checkpoint(str(tmp_path))


def test_part_of_the_layers_from_initialisers_is_refused(base):
  some = ((r"^.*(prompt|encoder/layers_1/mlp).*$", None),)
  with pytest.raises(ValueError, match="a source for every layer"):
    tiny.restore(base, _model("prompt", True), assignment_map=some)
