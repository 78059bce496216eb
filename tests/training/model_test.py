"""Tests of tuning and answering from Python, with `prompt_tuning.load`."""

from concurrent import futures
import functools
import pathlib
import pydoc
import threading
import time
from unittest import mock

import gin
import jax
import jax.numpy as jnp
import numpy as np
import pytest
import seqio
import tiny
import tiny_gin

import prompt_tuning as pt
from prompt_tuning.data import text_pairs, vocabulary
from prompt_tuning.interop import hub
from prompt_tuning.training import tuning
from t5x import checkpoints, gin_utils
from t5x.runs import training

LADDER = "checkpoints/ladder_xs/lm_100"
LABELS = ["yes", "no", "nothing"]
PAIRS = [("abc", "no"), ("abxc", "yes"), ("hgfedc", "no"), ("x", "yes")] * 4


@pytest.fixture(scope="module")
def model():
  return pt.load(LADDER)


def _tune(model, task, **arguments):
  settings = {"length": 4, "steps": 6, "batch_size": 8, "eval_period": 3}
  settings |= {"learning_rate": 0.3, "init": "random_uniform"}
  return model.tune(task, **settings | arguments)


@pytest.fixture(scope="module")
def ladder_run(model, tmp_path_factory):
  """The folder of a run, and the run's prompt."""
  folder = tmp_path_factory.mktemp("ladder_cb")
  return folder, _tune(model, "ladder_cb", init=None, folder=folder)


@pytest.fixture(scope="module")
def prompt(tiny_model):
  return _tune(tiny_model, tiny.TASK)


@pytest.fixture(scope="module")
def tiny_model(base):
  return pt.load(base, vocabulary=seqio.ByteVocabulary())


def test_package_shows_what_it_has():
  assert dir(pt) == sorted([*pt.__all__, "__version__"])
  shown = pydoc.render_doc(pt, renderer=pydoc.plaintext)
  assert "class Model(" in shown
  assert "\n    load(checkpoint" in shown
  assert (pathlib.Path(pt.__file__).parent / "py.typed").exists()


def test_what_is_not_given_is_that_of_the_config(tiny_model):
  base = tiny_model.checkpoint
  config = tiny.config(dtype="bfloat16", dropout_rate=0.25)
  words = seqio.ByteVocabulary()
  assert pt.load(base, words, config=config).config == config
  given = pt.load(base, words, "float32", config).config
  assert given == tiny.config(dtype="float32", dropout_rate=0.25)
  default = pt.load(base, words).config
  assert (default.dtype, default.dropout_rate) == ("float32", 0.1)


def test_weights_are_held_in_the_dtype_that_is_given(base):
  words = seqio.ByteVocabulary()
  exact, half = pt.load(base, words), pt.load(base, words, "bfloat16")
  assert pt.load(base, words, jnp.bfloat16).config == half.config
  assert _bytes(half.params) == _bytes(exact.params) / 2
  # Prompts start from the checkpoint's exact weights, not from the held ones.
  np.testing.assert_array_equal(half.embedding, exact.embedding)
  tuned = _tune(half, tiny.TASK)
  assert tuned.array.dtype == np.float32
  assert _bytes(half.params) == _bytes(exact.params) / 2


def _bytes(params):
  return sum(x.nbytes for x in jax.tree.leaves(params))


def test_prompt_is_the_best_by_validation(tiny_model, prompt, tmp_path):
  assert prompt.status == "finished"
  assert prompt.array.shape == (4, tiny_model.config.emb_dim)
  assert prompt.score == max(e["score"] for e in prompt.evals)
  assert len(prompt.evals) == 2
  assert tuning.Settings(length=1, steps=40).period == 4
  path = tmp_path / "prompt.safetensors"
  prompt.save(path)
  loaded = pt.TunedPrompt.load(path)
  assert loaded.metadata == prompt.metadata
  for array in (loaded.array, tiny_model.prompt_array(tmp_path)):
    np.testing.assert_array_equal(array, prompt.array)


def test_answers_do_not_depend_on_the_batch(tiny_model, prompt):
  texts = [text for text, _ in PAIRS[:3]]
  together = tiny_model.generate(texts, prompt, max_length=4)
  ranked = tiny_model.rank(texts, LABELS, prompt)
  for text, answer, scores in zip(texts, together, ranked, strict=True):
    assert tiny_model.generate([text], prompt, max_length=4) == [answer]
    assert list(scores.values()) == sorted(scores.values(), reverse=True)
    assert set(scores) == set(LABELS)
    (alone,) = tiny_model.rank([text], LABELS, prompt)
    assert alone == pytest.approx(scores, abs=1e-4)
  assert tiny_model.rank(texts, LABELS) != ranked


def test_evaluation_is_that_of_the_answers(tiny_model, prompt, tmp_path):
  ranked = tiny_model.rank([text for text, _ in PAIRS], LABELS, prompt)
  right = [
    next(iter(scores)) == target
    for scores, (_, target) in zip(ranked, PAIRS, strict=True)
  ]
  metrics = tiny_model.evaluate(
    PAIRS, prompt, labels=LABELS, rank=True, folder=tmp_path
  )
  assert metrics["accuracy"] == pytest.approx(100 * np.mean(right))
  assert tiny.record(tmp_path)["kind"] == "eval"


def test_task_without_a_train_split_is_evaluated(tiny_model):
  pairs = {"validation": PAIRS[:4]}
  task = text_pairs.make(pairs, tiny_model.vocabulary, LABELS).task
  seqio.TaskRegistry.add_provider(task.name, task)
  assert "accuracy" in tiny_model.evaluate(task.name, rank=False)


def test_model_is_read_once_and_is_there_once(
  tiny_model, monkeypatch, tmp_path
):
  read = []
  of_checkpoint = checkpoints.BaseCheckpoint.read

  def count(self, targets):
    read.extend(targets)
    return of_checkpoint(self, targets)

  monkeypatch.setattr(checkpoints.BaseCheckpoint, "read", count)
  model = pt.load(tiny_model.checkpoint, tiny_model.vocabulary)
  model.generate(["a"], max_length=2)
  shape = (model.config.vocab_size, model.config.emb_dim)

  def embeddings():
    return {
      x.unsafe_buffer_pointer() for x in jax.live_arrays() if x.shape == shape
    }

  before, during = embeddings(), set()
  prompt = _tune(
    *(model, PAIRS),
    folder=tmp_path,
    on_event=lambda event: during.update(embeddings()),
  )
  model.evaluate(PAIRS[:4], prompt)
  assert during
  assert during <= before
  assert len(read) == len(set(read)) > 10
  # Training does not consume the model's arrays.
  assert model.generate(["a"], prompt, max_length=2)
  # Without validation data, the last prompt is used.
  assert prompt.metadata.step == tiny.BASE_STEP + 6
  assert not prompt.evals
  written = pt.TunedPrompt.load(tmp_path / "prompt.safetensors")
  np.testing.assert_array_equal(written.array, prompt.array)


def test_threads_read_a_model_once_and_two_models_at_the_same_time(
  tiny_model, monkeypatch
):
  models = [
    pt.load(tiny_model.checkpoint, seqio.ByteVocabulary()) for _ in range(2)
  ]
  read, both = [], threading.Barrier(2)
  of_checkpoint = checkpoints.BaseCheckpoint.read

  def meet(self, targets):
    read.append(self)
    both.wait(30)  # Both models are read at the same time.
    time.sleep(0.2)  # The model's other threads ask for it meanwhile.
    return of_checkpoint(self, targets)

  monkeypatch.setattr(checkpoints.BaseCheckpoint, "read", meet)
  with futures.ThreadPoolExecutor(6) as pool:
    params = list(pool.map(lambda model: model.params, models * 3))
  found = {id(x["token_embedder"]["embedding"]) for x in params}
  assert len(read) == len(found) == 2


def test_a_prompt_to_start_from_says_the_length(
  tiny_model, prompt, monkeypatch, tmp_path
):
  monkeypatch.setattr(
    tuning, "tune", lambda model, found, settings, *_: settings
  )
  path = f"{tmp_path}/prompt.safetensors"
  prompt.save(path)
  monkeypatch.setattr(hub, "folder", lambda name, files: str(tmp_path))
  for start in (path, "me/reviews"):
    settings = tiny_model.tune(PAIRS, init=start)
    init = tuning.initializer(tiny_model, (), settings)
    assert settings.length == 4
    np.testing.assert_array_equal(init(None, (4, tiny.WIDTH)), prompt.array)
  assert tiny_model.tune(PAIRS).length == 20


@pytest.mark.slow
def test_two_models_in_two_threads(
  model, tiny_model, ladder_run, prompt, monkeypatch
):
  """Models with different vocabularies tune at once as they do alone."""
  monkeypatch.setattr(vocabulary.MODEL_VOCABULARY, "in_use", None)
  begin = threading.Barrier(2)

  def tune(*arguments, **settings):
    begin.wait(60)
    return _tune(*arguments, **settings)

  with futures.ThreadPoolExecutor(2) as pool:
    one = pool.submit(tune, model, "ladder_cb", init=None)
    two = pool.submit(tune, tiny_model, tiny.TASK)
  for run, other in ((one, ladder_run[1]), (two, prompt)):
    mine = run.result()
    np.testing.assert_array_equal(mine.array, other.array)
    assert mine.evals == other.evals


def test_stopped_run_goes_on_with_its_settings(tiny_model, prompt, tmp_path):
  tune = functools.partial(_tune, tiny_model, tiny.TASK, folder=tmp_path)
  steps = []
  stopped = tune(
    on_event=lambda event: steps.append(event.step),
    should_stop=lambda: tiny.BASE_STEP + 2 in steps,
  )
  assert stopped.status == tiny.record(tmp_path)["status"] == "interrupted"
  rest = tune()
  assert rest.status == "finished"
  np.testing.assert_array_equal(rest.array, prompt.array)
  assert rest.evals == prompt.evals
  with pytest.raises(ValueError, match=r"train\.learning_rate: 0\.3 -> 0\.1"):
    tune(learning_rate=0.1)


def test_error_of_a_callback_ends_the_run(tiny_model):
  def fail(event):
    raise RuntimeError("enough")

  with pytest.raises(RuntimeError, match="enough"):
    _tune(tiny_model, tiny.TASK, on_event=fail)


@pytest.mark.slow
def test_it_is_the_trainer_of_the_command_line(ladder_run, tmp_path):
  """`Model.tune` and the gin recipe train the same prompt, bit for bit."""
  macros = {
    "TASK": "ladder_cb",
    "MODEL_DIR": str(tmp_path),
    "PROMPT_LENGTH": 4,
    "BATCH_SIZE": 8,
    "EVAL_PERIOD": 3,
    "TRAIN_STEPS_RELATIVE": 6,
  }
  tiny_gin.parse(
    ["gin/models/ladder_xs.gin", "gin/recipes/prompt_tuning.gin"],
    [f"{name} = {value!r}" for name, value in macros.items()],
  )
  by_gin = gin.get_configurable(training.train)(
    configuration=gin_utils.configuration("train")
  )
  folder, prompt = ladder_run
  assert prompt.evals == by_gin.evals
  written = pt.TunedPrompt.load(tmp_path / "prompt.safetensors")
  np.testing.assert_array_equal(prompt.array, written.array)
  with_gin, without = (
    {x.name for x in place.iterdir() if "tfevents" not in x.name}
    for place in (tmp_path, folder)
  )
  assert with_gin == without | {"config.gin"}
  assert tiny.record(folder)["status"] == "finished"


def test_model_with_a_prompt_in_it_is_no_base_model(tmp_path, tiny_model):
  params = tiny_model.params
  encoder = {**params["encoder"], "prompt": {"prompt": np.ones((2, 8))}}
  path = checkpoints.save_base_checkpoint(
    str(tmp_path), 0, {**params, "encoder": encoder}, {}
  )
  with pytest.raises(ValueError, match="it also has encoder/prompt/prompt"):
    pt.load(path, tiny_model.vocabulary)


def test_programs_are_kept_as_those_of_commands_are(tiny_model):
  with mock.patch("t5x.files.compilation_cache.enable") as enable:
    pt.load(tiny_model.checkpoint, tiny_model.vocabulary)
  enable.assert_called_once_with()


def test_vocabulary_is_looked_for_beside_the_checkpoint(tmp_path):
  base = tiny.save_base(tmp_path)
  with pytest.raises(ValueError, match="Expected one Sentence"):
    pt.load(base)
  with pytest.raises(ValueError, match="vocabulary of at most 384 pieces"):
    pt.load(base, vocabulary=seqio.ByteVocabulary(1000))
  for name in ("one.model", "two.model"):
    (tmp_path / name).touch()
  with pytest.raises(ValueError, match=r"got one\.model, two\.model\."):
    pt.load(base)
