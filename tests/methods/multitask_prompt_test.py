import conformance
from flax import traverse_util
import gin
import jax
import jax.numpy as jnp
import numpy as np
import pytest
import seqio
import tiny
import tiny_decoder
import tiny_gin

from prompt_tuning import tasks  # noqa: F401
from prompt_tuning.data import (
  chat_templates,
  task_rows,
  tokenizers_vocabulary,
)
from prompt_tuning.interop import hugging_face
from prompt_tuning.methods import computed_prompts, multitask_prompt
from t5x import models

VOCABULARY = seqio.ByteVocabulary()
PREFIXES = ("cb ", "copa ", "wsc: ")
NORMAL = np.random.default_rng(0).normal(size=(5, 3)).astype(np.float32)
PARAMS = {
  "shared": {"prompt": NORMAL[:2]},
  **dict(zip(("task_cb", "task_copa", "task_wsc"), NORMAL[2:], strict=True)),
}


def _tokens(*texts):
  ids = [VOCABULARY.encode(text) for text in texts]
  return np.array([row + [0] * (20 - len(row)) for row in ids])


def _prompts(tokens, dtype="float32", params=PARAMS, vocabulary=VOCABULARY):
  module = multitask_prompt.MultitaskPrompt(2, PREFIXES, vocabulary)
  embedded = jnp.zeros((len(tokens), tokens.shape[1], 3), dtype)
  return module.apply({"params": params}, tokens, embedded)


def _init(prefixes):
  module = multitask_prompt.MultitaskPrompt(2, prefixes, VOCABULARY)
  inputs = _tokens("cb x"), jnp.zeros((1, 20, 3))
  jax.eval_shape(module.init, jax.random.key(0), *inputs)


def test_each_example_gets_the_row_of_its_task():
  tokens = _tokens("wsc: cb ", "cb premise: x", "copa choice1: y", "cb z")
  rows = [PARAMS[f"task_{name}"] for name in ("wsc", "cb", "copa", "cb")]
  expected = [NORMAL[:2] + row for row in rows]
  np.testing.assert_allclose(_prompts(tokens), expected, rtol=1e-6)
  assert _prompts(tokens, "bfloat16").dtype == jnp.bfloat16


@pytest.mark.parametrize("text", ["rte premise: x", "cbpremise", "c"])
def test_a_prompt_of_no_task_is_not_a_number(text):
  prompts = np.asarray(_prompts(_tokens("cb premise: x", text)))
  assert np.isfinite(prompts[0]).all()
  assert np.isnan(prompts[1]).all()


def test_prefixes_are_found_in_a_chat_template(tmp_path):
  tiny_decoder.save_tokenizer(tmp_path, merges=[("Ġ", "p"), ("Ġ", "c")])
  words = tokenizers_vocabulary.TokenizersVocabulary(
    tmp_path / hugging_face.TOKENIZER,
    eos_id=tiny_decoder.CONFIG["eos_token_id"],
    chat_template=chat_templates.read(tmp_path),
  )
  texts = ["copa choice1: y", "cb premise: x", "cb z", "premise: x"]
  rows = [words.of_inputs.encode(text) for text in texts]
  tokens = np.array([row + [0] * (32 - len(row)) for row in rows])
  prompts = np.asarray(_prompts(tokens, vocabulary=words))
  expected = [NORMAL[:2] + PARAMS[f"task_{x}"] for x in ("copa", "cb", "cb")]
  np.testing.assert_allclose(prompts[:3], expected, rtol=1e-6)
  assert np.isnan(prompts[3]).all()


def test_a_row_learns_from_the_examples_of_its_task_alone():
  """A padding example adds nothing to a gradient."""
  tokens = _tokens("cb premise: x", "wsc: x", "cb y", "")

  def objective(params):
    weights = jnp.array([1.0, 1.0, 1.0, 0.0])
    prompts = _prompts(tokens, params=params)
    return (prompts * weights[:, None, None]).sum()

  gradients = jax.grad(objective)(PARAMS)
  np.testing.assert_array_equal(gradients["task_cb"], [4.0] * 3)
  np.testing.assert_array_equal(gradients["task_wsc"], [2.0] * 3)
  np.testing.assert_array_equal(gradients["task_copa"], [0.0] * 3)
  np.testing.assert_array_equal(gradients["shared"]["prompt"], [[3.0] * 3] * 2)


@pytest.mark.parametrize(
  ("prefixes", "message"),
  [
    (["cb ", "cb: "], "Give every task once"),
    ([], "Give every task once"),
    (["ws", "wsc: "], "prefix of 'wsc' starts with that of 'ws'"),
  ],
)
def test_tasks_that_cannot_be_told_apart_are_refused(prefixes, message):
  with pytest.raises(ValueError, match=message):
    _init(prefixes)


def test_prefixes_of_a_mixture():
  prefixes = task_rows.prefixes_of(
    "super_glue_and_dpr_prefixed", "super_glue_cb_prefixed"
  )
  # DPR has the form of WSC, and shares its name.
  assert sorted(prefixes) == [
    *("boolq ", "cb ", "copa ", "multirc ", "record ", "rte ", "wic "),
    "wsc: ",
  ]
  _init(prefixes)  # No prefix is the start of another.


def test_what_registers_a_mixture_is_imported_first(tmp_path, monkeypatch):
  (tmp_path / "registers_later.py").write_text(
    "from prompt_tuning.data import sources, task_rows\n"
    "source = sources.ExampleSource(lambda split: [], {'train': 0})\n"
    "task_rows.add_task('later_cb', task_rows.BY_NAME['cb'], source)\n"
  )
  monkeypatch.syspath_prepend(tmp_path)
  name = "later_cb_prefixed"
  with pytest.raises(ValueError, match="is called 'later_cb"):
    task_rows.prefixes_of(name, name)
  assert task_rows.prefixes_of(name, name, "registers_later") == ("cb ",)


@pytest.mark.parametrize(
  ("mixture", "used", "message"),
  [
    ("mini_super_glue", "mini_super_glue", "got mini_boolq. Use mini_super_"),
    ("mini_super_glue_prefixed", "mini_cb", "got mini_cb. Use mini_cb_pref"),
    ("mini_rte_prefixed", "mini_cb_prefixed", r"which lacks \['cb '\]"),
  ],
)
def test_a_task_without_a_row_is_refused(mixture, used, message):
  with pytest.raises(ValueError, match=message):
    task_rows.prefixes_of(mixture, used)


def test_tasks_learn_from_the_answers_with_their_own_prompts(tmp_path):
  rows = dict(
    zip("ab", np.random.default_rng(0).normal(size=(2, 18)), strict=1)
  )
  parts, files = {"shared": {"prompt": np.ones((2, 16))}}, {}
  for task, row in rows.items():
    parts |= {
      f"task_{task}_positions": row[:2],
      f"task_{task}_features": row[2:],
    }
    files[task] = str(tmp_path / f"{task}.npy")
    np.save(files[task], np.outer(row[:2], row[2:]))
  parts = jax.tree.map(lambda x: np.asarray(x, np.float32), parts)
  tiny_gin.configure_files(
    "train",
    ["gin/methods/mpt_sources.gin", "gin/prompts/random_uniform.gin"],
    ["PROMPT_LENGTH = 2", "TASK_PREFIXES = ['a', 'b']", "DROPOUT_RATE = 0.0"],
    **{"MPT_TEACHERS": files, "INITIAL_CHECKPOINT_PATH": "", "MODEL_DIR": ""},
  )
  model = gin.get_configurable(models.EncoderDecoderModel)()
  shapes = tiny.input_shapes(2)
  init = jax.jit(lambda rng: model.get_initial_variables(rng, shapes))
  params = init(jax.random.key(0))["params"]
  assert params["encoder"]["prompt"].keys() == parts.keys()
  batch = {name: jnp.full(x, 9, "int32") for name, x in shapes.items()}
  # The byte pieces of "a" and "b".
  inputs = batch["encoder_input_tokens"].at[:, 0].set(jnp.array([100, 101]))
  batch["encoder_input_tokens"] = inputs

  @jax.jit
  def distance(parts):
    """Returns the training loss minus the evaluation loss."""
    prompted = conformance.with_prompt(params, parts)
    taught, _ = model.loss_fn(prompted, batch, jax.random.key(1))
    return taught - model.eval_fn(prompted, batch)[0]

  assert abs(distance(parts)) < 1e-3
  other = parts | {"task_b_features": parts["task_a_features"]}
  arrays = []
  features = dict(batch)
  weights = features.pop("decoder_loss_weights")
  for some in (other, parts):  # The right parts answer as the teachers do.
    logits, states = model.module.apply(
      {"params": conformance.with_prompt(params, some)},
      **features,
      **{"decode": False, "enable_dropout": False},
      mutable=["intermediates"],
    )
    hidden = states["intermediates"]["decoder"]["last_hidden"][0]
    arrays.append((jax.nn.softmax(logits), hidden))
  (answers, hidden), (taught, taught_hidden) = arrays
  divergence = (taught * jnp.log(taught / answers)).sum(-1)
  squares = ((hidden - taught_hidden) ** 2).mean(-1)
  assert squares.sum() > 0.01 * divergence.sum()
  assert distance(other) == pytest.approx(
    0.9 * float(((divergence + squares) * weights).sum()), rel=1e-3
  )
  flat = traverse_util.flatten_dict({"encoder": {"prompt": parts}}, sep="/")
  for task, file in files.items():
    found = computed_prompts.find(computed_prompts.of_task(flat, task))
    prompt = computed_prompts.fold(found["encoder/prompt/prompt"])
    np.testing.assert_allclose(prompt, np.load(file), rtol=1e-5)
