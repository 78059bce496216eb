"""Batches of rows with prompts of their own, against each row alone."""

import functools
import json
import threading

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import tiny

from prompt_tuning import prompts as prompts_lib
from prompt_tuning.inference import compiled
from prompt_tuning.inference import engine as engine_lib
from prompt_tuning.inference.batch_queue import (
  QueueFullError,
  Settings,
  Shapes,
  TooLongError,
)
from prompt_tuning.inference.compiled import CompiledPrograms
from prompt_tuning.inference.requests import Generation, Ranking, TunedPrompt
from t5x import decoding
from t5x.runs import inference

LABELS = ("yes", "no", "nothing")


def _results(engine, requests):
  return [ticket.result(60) for ticket in engine.submit(list(requests))]


def _request(engine, text="abc", prompt=None, max_tokens=8, **options):
  return Generation(engine.model.encode(text), prompt, max_tokens, **options)


def _ids(generated):
  return [token.id for token in generated.tokens]


def _infer(base, folder, prompt):
  """Returns the answers of `t5x.infer` to the split "test"."""
  inference.infer(
    mode="predict",
    model=tiny.make_model(
      prompt_init=prompts_lib.from_array(prompt.array),
      decode_fn=decoding.temperature_sample,
    ),
    dataset_cfg=tiny.dataset_config(split="test", shuffle=False),
    restore_checkpoint_cfg=tiny.restore_config(base),
    partitioner=tiny.make_partitioner(),
    output_dir=str(folder),
    checkpoint_period=1,
    fallback_init_rng=0,
    summarize_config_fn=None,
  )
  path = folder / f"{tiny.TASK}-predict.jsonl-00000-of-00001"
  return [json.loads(line) for line in path.read_text().splitlines()]


def test_mixed_batches_answer_as_infer_does(base, engine, prompts, tmp_path):
  """Every input with three prompts, in an order that mixes all."""
  lines = _infer(base, tmp_path, prompts[2])
  texts = [line["inputs"]["inputs_pretokenized"] for line in lines]
  pairs = [(i, j) for i in (0, 2, 4) for j in range(len(texts))]
  np.random.default_rng(0).shuffle(pairs)
  answers = _results(
    engine,
    (
      _request(engine, texts[j], prompts[i], tiny.LENGTHS["targets"])
      for i, j in pairs
    ),
  )
  decode = engine.model.vocabulary.decode
  for (i, j), answer in zip(pairs, answers, strict=True):
    assert i != 2 or decode(_ids(answer)) == lines[j]["prediction"]
  assert len({x["prediction"] for x in lines}) > 2


def test_more_prompts_than_slots(engine, prompts, batches_done):
  """They are swapped, and rows with five prompts take two batches."""
  texts = ["abc", "abcdefgh", "x", "hgf", "hello", "hello"]
  before = engine.table.swaps
  requests = [
    _request(engine, text, prompt)
    for text, prompt in zip(texts * 2, [*prompts, None] * 2, strict=True)
  ]
  together = _results(engine, requests)
  assert engine.table.swaps > before
  assert engine.table.occupied == 3
  alone = [_results(engine, [request])[0] for request in requests[:6]]
  assert list(map(_ids, together)) == list(map(_ids, alone * 2))
  assert {done.rows for done in batches_done} <= {1, 4}
  assert max(len(done.tickets) for done in batches_done) > 1


def test_ranking_is_that_of_the_model(engine, prompts):
  labels = tuple(map(engine.model.encode, LABELS))
  cases = [("abc", prompts[4]), ("abxcdefgh", None), ("b", prompts[4])]
  ranked = _results(
    engine, (Ranking(engine.model.encode(x), p, labels) for x, p in cases)
  )
  for (text, prompt), scores in zip(cases, ranked, strict=True):
    array = None if prompt is None else prompt.array
    (alone,) = engine.model.rank([text], LABELS, array)
    found = dict(zip(LABELS, scores, strict=True))
    assert found == pytest.approx(alone, abs=1e-4)


def test_beams_are_those_of_the_trainer(engine):
  request = _request(engine, "abcd", num_beams=2)
  (found,) = _results(engine, [request])
  model = tiny.make_model(with_prompt=False)
  predict = functools.partial(model.predict_batch_with_aux, num_decodes=2)
  expected, aux = jax.jit(predict)(
    engine.model.params,
    {
      "encoder_input_tokens": np.array([request.tokens]),
      "decoder_input_tokens": np.zeros((1, 8), np.int32),
    },
  )
  assert _ids(found) == [x for x in np.asarray(expected[0]).tolist() if x > 1]
  assert found.score == pytest.approx(float(aux["scores"][0]), abs=1e-4)


def test_samples_depend_on_their_seed_alone(engine, prompts):
  def sample(seed, choice, others=()):
    options = {"temperature": 1.0, "seed": seed, "choice": choice}
    request = _request(engine, "abc", prompts[1], **options)
    return tuple(_ids(_results(engine, [request, *others])[0]))

  others = [_request(engine, "hgfedcba", prompts[4], 5)] * 2
  assert sample(3, 0) == sample(3, 0, others)
  assert len({sample(seed, choice) for seed in (1, 2) for choice in (0, 1)}) > 2


def test_samples_of_one_input_are_encoded_once(engine, prompts, monkeypatch):
  """Each is what it is alone; another prompt makes another input."""
  encoded, call = [], CompiledPrograms.__call__

  def counted(programs, name, *arguments, **keywords):
    if name == "encode":
      encoded.append(len(arguments[1]))
    return call(programs, name, *arguments, **keywords)

  samples = [
    _request(engine, "abc", prompts[1], temperature=1.0, seed=5, choice=choice)
    for choice in range(4)
  ]
  alone = [_ids(_results(engine, [sample])[0]) for sample in samples]
  monkeypatch.setattr(CompiledPrograms, "__call__", counted)
  assert list(map(_ids, _results(engine, samples))) == alone
  assert encoded == [1]
  _results(engine, [*samples[:3], _request(engine, "abc", prompts[2])])
  assert encoded == [1, 4]


def test_tokens_are_streamed_with_the_likeliest(engine, prompts):
  came = []
  streamed, alone = _results(
    engine,
    [
      _request(
        engine, "abc", prompts[0], top_log_probs=3, on_token=came.append
      ),
      _request(engine, "abc", prompts[0]),
    ],
  )
  assert came == list(streamed.tokens)
  assert _ids(streamed) == _ids(alone)
  for token in came:
    values = [x for _, x in token.top]
    assert values == sorted(values, reverse=True)
    # Greedy: the first of them was taken.
    assert token.top[0] == (token.id, pytest.approx(token.log_prob, abs=1e-5))
    assert len(token.top) == 3
  assert streamed.score == pytest.approx(alone.score, abs=1e-4)


def test_nothing_is_compiled_for_a_new_prompt(engine, prompts):
  number = len(engine._programs)
  # Once, so that JAX has compiled its programs for moving arrays.
  _results(engine, [_request(engine, "abc", prompts[0], 5)])
  compiled = []
  jax.monitoring.register_event_duration_secs_listener(
    lambda name, seconds, **_: (
      compiled.append(name) if "backend_compile" in name else None
    )
  )
  new = TunedPrompt(np.ones((3, tiny.WIDTH), np.float32))
  _results(engine, [_request(engine, "abcd", new, 5)])
  assert not compiled
  assert number == len(engine._programs)


def test_full_queue_refuses_and_recovers(engine):
  request = _request(engine)
  with pytest.raises(QueueFullError, match="room for 64"):
    engine.submit([request] * 65)
  tickets, submit = [], engine.submit
  threads = [
    threading.Thread(target=lambda: tickets.extend(submit([request] * 5)))
    for _ in range(8)
  ]
  for thread in threads:
    thread.start()
  for thread in threads:
    thread.join()
  first, *rest = [_ids(ticket.result(60)) for ticket in tickets]
  assert rest == [first] * 39


@pytest.mark.parametrize(
  ("changes", "error", "message"),
  [
    ({"tokens": (5,) * 25}, TooLongError, "at most 24, got an input of 25"),
    ({"max_tokens": 9}, TooLongError, "at most 8, got max_tokens 9"),
    ({"num_beams": 3}, ValueError, "num_beams to be 0 or 2, got"),
    ({"num_beams": 2, "max_tokens": 5}, ValueError, "beam search depends on"),
    (
      {"num_beams": 2, "max_tokens": 8, "temperature": 1.0},
      ValueError,
      "Beam search does not",
    ),
    (
      {"prompt": TunedPrompt(np.zeros((7, tiny.WIDTH), np.float32))},
      ValueError,
      "at most 6 positions, got 7",
    ),
  ],
)
def test_wrong_requests_are_refused(engine, changes, error, message):
  arguments = {"tokens": (5, 1), "prompt": None, "max_tokens": 5, **changes}
  with pytest.raises(error, match=message):
    engine.submit([Generation(**arguments)])


@pytest.mark.parametrize(
  ("module", "function"), [(jnp, "asarray"), (compiled, "_put")]
)
def test_prompts_keep_their_places_when_a_copy_fails(
  monkeypatch, module, function
):
  table = compiled.PromptTable(2, 2, 3)
  a, b, c, d = (TunedPrompt(np.full((2, 3), i, np.float32)) for i in range(4))
  table.slots_of([a, b])
  with monkeypatch.context() as patched:

    def fail(*_):
      raise RuntimeError("RESOURCE_EXHAUSTED")

    patched.setattr(module, function, fail)
    with pytest.raises(RuntimeError):
      table.slots_of([c])
  slots = table.slots_of([c, d])
  assert sorted(slots) == [0, 1]
  for prompt, slot in zip((c, d), slots, strict=True):
    np.testing.assert_array_equal(table.array[slot], prompt.array)


def test_closed_engine_finishes_and_takes_no_more(model):
  shapes = Shapes(rows=(1,), lengths=(12,), steps=(5,), labels=(8,), beams=())
  settings = Settings(shapes=shapes, longest_prompt=2, slots=1)
  stopped, answers = engine_lib.Engine(model, settings), iter([False, False])
  stopped.start(should_stop=lambda: next(answers, True))
  assert not stopped.is_ready
  assert len(stopped._programs) == 2
  engine = engine_lib.Engine(model, settings)
  request = _request(engine, max_tokens=5)
  with pytest.raises(engine_lib.ClosedError):
    engine.submit([request])
  engine.start()
  assert engine.is_ready
  tickets = engine.submit([request] * 3)
  engine.close()
  assert all(ticket.done() for ticket in tickets)
  assert all(ticket.result().tokens for ticket in tickets)
  with pytest.raises(engine_lib.ClosedError):
    engine.submit([request])
