"""Tests of frozen weights in int8: memory, results, runs and files."""

import dataclasses
import functools
import itertools

from flax import traverse_util
import gin
import jax
import numpy as np
import pytest
import seqio
import tiny
import tiny_decoder
import tiny_gin

import prompt_tuning as pt
from prompt_tuning import prompts
from prompt_tuning.inference.batch_queue import Settings, Shapes
from prompt_tuning.inference.engine import Engine
from prompt_tuning.inference.requests import Generation
from prompt_tuning.injections import Injections
from prompt_tuning.interop import checkpoint_conversion
from prompt_tuning.methods import lora
from prompt_tuning.models import networks
from prompt_tuning.models.config import TOKEN_EMBEDDING
from prompt_tuning.models.network import parameter_shapes
from prompt_tuning.training import actions
from t5x import adafactor, models, trainer
from t5x.formats import int8, stacking, stored_arrays

LADDER = "checkpoints/ladder_s/lm_100"
WORDS = seqio.ByteVocabulary()
TARGETS = np.array([[4, 50, 1, 0], [7, 9, 2, 1]], np.int32)
INPUTS = np.array([[5, 9, 33, 2, 7], [21, 8, 60, 0, 0]], np.int32)


def test_memory_and_scores_of_a_pretrained_model():
  exact, rounded = (pt.load(LADDER, base_weights=x) for x in (None, "int8"))
  sizes = [jax.tree.map(lambda x: x.nbytes, x.params) for x in (exact, rounded)]
  whole, part = (sum(jax.tree.leaves(x)) for x in sizes)
  assert part <= 0.3 * whole
  pairs = [("abc", "yes"), ("hgfedc x", "no")]
  scores = (x.log_likelihoods(pairs) for x in (exact, rounded))
  np.testing.assert_allclose(*scores, rtol=0.01)


@pytest.mark.parametrize("held", ["int8", "int8_products"])
@pytest.mark.parametrize(
  "kind", ["t5", pytest.param("decoder", marks=pytest.mark.slow)]
)
def test_gradients_of_methods_are_nearly_those_of_floats(
  kind, held, tmp_path, base
):
  path = base if kind == "t5" else tiny_decoder.save(tmp_path / "decoder")
  found, without_dropout = [], {"enable_dropout": False}
  prompt = functools.partial(prompts.Prompt, length=4)
  delta = functools.partial(lora.LowRankDelta, rank=2, alpha=2.0)
  method = Injections(prompt=prompt, delta=delta)
  arguments = INPUTS, np.pad(TARGETS, ((0, 0), (1, 0)))[:, :-1], TARGETS
  for weights in (None, held):
    model = pt.load(path, WORDS, base_weights=weights)
    module = networks.make(model.config, method)
    frozen = dict(model.in_memory.params)
    rng, shapes = np.random.default_rng(0), parameter_shapes(module)
    added = {
      name: rng.normal(size=shapes[name]).astype(np.float32) / 4
      for name in sorted(shapes.keys() - frozen.keys())
    }

    def loss(added, frozen, module=module):
      params = traverse_util.unflatten_dict(added | frozen, sep="/")
      logits = module.apply({"params": params}, *arguments, **without_dropout)
      return jax.nn.log_softmax(logits)[..., 4].sum(), logits

    found.append(jax.jit(jax.grad(loss, has_aux=True))(added, frozen))
  (gradient, logits), (rounded, rounded_logits) = found

  def difference(x, y):
    return np.linalg.norm(x - y) / np.linalg.norm(x)

  # The bounds lie above the largest differences of 12 seeds, measured once by
  # hand.
  of_logits, of_prompts = (0.03, 0.1) if held == "int8" else (0.06, 0.15)
  assert 0 < difference(logits, rounded_logits) < of_logits
  for name, x in gradient.items():
    most = of_prompts if name.endswith("/prompt") else 0.25
    assert difference(x, rounded[name]) < most, name


@pytest.mark.parametrize(
  ("macros", "of_int8"),
  # 7 kernels in the encoder and 11 in the decoder; the head is not rounded.
  [({}, 0), ({"BASE_WEIGHTS": "int8_products"}, 18)],
)
def test_a_binding_chooses_the_products_of_a_run(macros, of_int8, base):
  tiny_gin.configure_files(
    "train",
    [
      "gin/models/int8.gin",
      "gin/methods/prompt_tuning.gin",
      "gin/prompts/random_uniform.gin",
    ],
    ["PROMPT_LENGTH = 4"],
    INITIAL_CHECKPOINT_PATH=base,
    MODEL_DIR="none",
    TASK_FEATURE_LENGTHS=None,
    **macros,
  )
  model = gin.get_configurable(models.EncoderDecoderModel)()
  batch, key = tiny.features(INPUTS, TARGETS), jax.random.key(0)
  loop = tiny.make_trainer(trainer.Trainer, model, base=base)
  state = loop.train_state
  program = str(jax.make_jaxpr(model.loss_fn)(state.params, batch, key))
  assert program.count("preferred_element_type=int32") == of_int8
  before = jax.device_get((state.trainable, state.frozen))
  loop.train_steps(iter([batch]), num_steps=1)
  after = jax.device_get((loop.train_state.trainable, loop.train_state.frozen))
  jax.tree.map(np.testing.assert_array_equal, before[1], after[1])
  prompts_ = [jax.tree.leaves(x[0]) for x in (before, after)]
  assert (prompts_[0][0] != prompts_[1][0]).all()


def test_parameter_that_is_called_a_scale_is_kept(base):
  """Residual prompts train a `norm_scale`, which is no matrix's scale."""
  model = checkpoint_conversion.open_model(base)
  name = "encoder/prompt/norm_scale"
  scale = stored_arrays.in_memory(np.ones(16, np.float32))
  model = dataclasses.replace(model, arrays={**model.arrays, name: scale})
  rounded = int8.held_by(model, int8.names(model, True))
  back = int8.held_by(rounded, int8.names(rounded, False))
  assert back.arrays[name] is rounded.arrays[name] is scale
  assert {*back.arrays} == {*model.arrays}


def test_head_keeps_the_channel_that_the_last_norm_makes_large(base):
  model = checkpoint_conversion.open_model(base)
  arrays, head = {**model.arrays}, "decoder/logits_dense/kernel"
  for name, factor in (("decoder/decoder_norm/scale", 64), (head, 1 / 64)):
    changed = stored_arrays.read(arrays[name]).copy()
    changed[3] *= factor
    arrays[name] = stored_arrays.in_memory(changed)
  model = dataclasses.replace(model, arrays=arrays)
  names = int8.names(model, True)
  back = int8.held_by(int8.held_by(model, names), list(arrays)).arrays

  def logits(arrays):
    loaded = traverse_util.unflatten_dict(
      {name: stored_arrays.read(x) for name, x in arrays.items()}, sep="/"
    )
    network = networks.make(tiny.config())
    tokens = INPUTS, TARGETS, TARGETS
    return network.apply({"params": loaded}, *tokens, enable_dropout=False)

  exact = logits(arrays)
  changed = np.abs(logits({**arrays, head: back[head]}) - exact).max()
  assert 0 < changed < 0.01 * np.abs(exact).max()


def test_embedding_keeps_its_small_columns(base):
  model = checkpoint_conversion.open_model(base)
  table = stored_arrays.read(model.arrays[TOKEN_EMBEDDING])
  table *= 2.0 ** np.arange(table.shape[1])
  table[:, 5] = 0
  arrays = {**model.arrays, TOKEN_EMBEDDING: stored_arrays.in_memory(table)}
  model = dataclasses.replace(model, arrays=arrays)
  rounded = int8.held_by(model, int8.names(model, True))
  back = int8.held_by(rounded, arrays).arrays[TOKEN_EMBEDDING]
  change = np.abs(stored_arrays.read(back) - table).max(axis=0)
  assert (change <= np.abs(table).max(axis=0) / 200).all()


@pytest.mark.slow
@pytest.mark.parametrize("held", ["int8", "int8_products"])
def test_run_resumes_bit_for_bit_and_is_served(held, tmp_path, base):
  model = tiny.make_model(base_weights=held, scan_layers=True)

  def train(name, **overrides):
    folder = str(tmp_path / name)
    best = (folder, tiny.TASK, ".*", WORDS)
    after = {"INFER_EVAL": [actions.SaveBestPrompt(*best, base_model=base)]}
    return tiny.train(folder, base, model, actions=after, **overrides)

  whole, steps = train("whole"), itertools.count()
  stopped = train("parts", should_stop=lambda: next(steps) > 2)
  parts = train("parts")
  assert (stopped.status, parts.status) == ("interrupted", "finished")
  equal = np.testing.assert_array_equal
  jax.tree.map(equal, whole.train_state, parts.train_state)
  loaded = pt.load(base, WORDS, base_weights=held)
  frozen = traverse_util.flatten_dict(whole.train_state.frozen, sep="/")
  for name, x in stacking.take_apart(frozen).items():
    equal(x, loaded.in_memory.params[name])
  # The prompt fits its model in floats and in int8.
  prompt = pt.TunedPrompt.load(tmp_path / "parts" / "prompt.safetensors")
  exact = pt.load(base, WORDS).prompt_array(prompt)
  equal(exact, loaded.prompt_array(prompt))
  (answer,) = loaded.generate(["abxc"], prompt, max_length=4)
  shapes = Shapes((1,), (16,), (4,), (4,), ())
  with Engine(loaded, Settings(shapes=shapes)) as engine:
    request = Generation(loaded.encode("abxc"), prompt, max_tokens=4)
    (ticket,) = engine.submit([request])
    assert WORDS.decode([x.id for x in ticket.result(60).tokens]) == answer


@pytest.mark.parametrize("kind", [None, "tiny_decoder", "tiny_t5gemma"])
def test_converted_to_int8_and_back(kind, tmp_path, base):
  if kind is not None:
    base = tiny_decoder.save(tmp_path / "base", kind)
  exact = checkpoint_conversion.open_model(base)
  if kind is not None:
    with pytest.raises(ValueError, match=r"hf or int8 for .*, got t5x, w"):
      checkpoint_conversion.convert(exact, "t5x", str(tmp_path / "t5x"))
  for source, target in ((base, "int8"), (str(tmp_path / "int8"), "hf")):
    model = checkpoint_conversion.open_model(source)
    checkpoint_conversion.convert(model, target, str(tmp_path / target))
  read = pt.load(tmp_path / "int8", WORDS)
  rounded = pt.load(base, WORDS, base_weights="int8")
  assert read.fingerprint == rounded.fingerprint
  jax.tree.map(np.testing.assert_array_equal, rounded.params, read.params)
  table = pt.load(base, WORDS).embedding
  within = np.abs(table).max() / 250
  np.testing.assert_allclose(read.embedding, table, atol=within)
  back = checkpoint_conversion.open_model(str(tmp_path / "hf")).arrays
  assert back.keys() == exact.arrays.keys()
  for name, array in exact.arrays.items():
    x, y = stored_arrays.read(array), stored_arrays.read(back[name])
    assert np.abs(x - y).max() <= np.abs(x).max() / 250, name
    assert (name.endswith("scale") or "rel_" in name) == (x == y).all()


def test_mistakes_are_named():
  model = tiny.make_model(adafactor.Adafactor(), base_weights="int8")
  with pytest.raises(ValueError, match=r"parameters to be floats.*int8\.gin"):
    tiny.make_initializer(model)
  with pytest.raises(ValueError, match="'int8_products' or None, got 'x'"):
    tiny.config(base_weights="x")
  with pytest.raises(ValueError, match="finite weights"):
    int8.quantized(np.array([[1.0, np.nan]]), 0)
