import jax
import jax.numpy as jnp
import numpy as np
import pytest
import seqio

from prompt_tuning import tasks  # noqa: F401
from prompt_tuning.data import superglue
from prompt_tuning.methods import multitask_prompt

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


def _prompts(tokens, dtype="float32", params=PARAMS):
  module = multitask_prompt.MultitaskPrompt(2, PREFIXES, VOCABULARY)
  embedded = jnp.zeros((len(tokens), tokens.shape[1], 3), dtype)
  return module.apply({"params": params}, tokens, embedded)


def _init(prefixes):
  module = multitask_prompt.MultitaskPrompt(2, prefixes, VOCABULARY)
  module.init(jax.random.key(0), _tokens("cb x"), jnp.zeros((1, 20, 3)))


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


def test_a_row_learns_from_the_examples_of_its_task_alone():
  """A row of padding adds nothing to a gradient."""
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
  prefixes = superglue.prefixes_of(
    "super_glue_and_dpr_prefixed", "super_glue_cb_prefixed"
  )
  # DPR has the form of WSC, and shares its name.
  assert sorted(prefixes) == [
    *("boolq ", "cb ", "copa ", "multirc ", "record ", "rte ", "wic "),
    "wsc: ",
  ]
  _init(prefixes)  # As one prompt of all: none begins with another.


def test_what_registers_a_mixture_is_imported_first(tmp_path, monkeypatch):
  (tmp_path / "registers_later.py").write_text(
    "from prompt_tuning.data import sources, superglue\n"
    "source = sources.ExampleSource(lambda split: [], {'train': 0})\n"
    "superglue.add_tasks('later', lambda row: source, superglue.TASKS[1:2])\n"
  )
  monkeypatch.syspath_prepend(tmp_path)
  name = "later_cb_prefixed"
  with pytest.raises(ValueError, match="is called 'later_cb"):
    superglue.prefixes_of(name, name)
  assert superglue.prefixes_of(name, name, "registers_later") == ("cb ",)


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
    superglue.prefixes_of(mixture, used)
