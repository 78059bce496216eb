"""Tests of batches whose rows have different prompts, against single rows."""

import functools
from unittest import mock

import conformance
import jax
import numpy as np
import pytest
import tiny

from prompt_tuning.inference import compiled
from prompt_tuning.inference import engine as engine_lib
from prompt_tuning.inference.batch_queue import Settings, Shapes
from prompt_tuning.inference.batches import Batch, Decoding
from prompt_tuning.inference.compiled import CompiledPrograms
from prompt_tuning.inference.requests import Generation, Ticket, TunedPrompt
from prompt_tuning.inference.sampling import Sampling, choose
from t5x import decoding


def _results(engine, requests):
  return [ticket.result(60) for ticket in engine.submit(list(requests))]


def _request(engine, text="abc", prompt=None, max_tokens=8, **options):
  return Generation(engine.model.encode(text), prompt, max_tokens, **options)


def _ids(generated):
  return [token.id for token in generated.tokens]


def _trainers(engine, texts, decode_fn, prompt=None, **arguments):
  """Returns the tokens and scores of the trainer's model."""
  model = tiny.make_model(with_prompt=prompt is not None, decode_fn=decode_fn)
  params = engine.model.params
  if prompt is not None:
    params = conformance.with_prompt(params, {"prompt": prompt.array})
  rows = [engine.model.encode(text) for text in texts]
  inputs = [[*row, *[0] * (24 - len(row))] for row in rows]
  tokens, aux = jax.jit(
    functools.partial(model.predict_batch_with_aux, **arguments)
  )(
    params,
    {
      "encoder_input_tokens": np.array(inputs),
      "decoder_input_tokens": np.zeros((len(texts), 8), np.int32),
    },
  )
  return [[x for x in row if x > 1] for row in tokens.tolist()], aux["scores"]


def test_mixed_batches_answer_as_the_trainers_model_does(engine, prompts):
  """Rows of one prompt match the trainer's, mixed with rows of two others."""
  texts = ["abc", "abxcdefgh", "x", "hgf", "hello", "no", "yes yes", "a b c d"]
  greedy = functools.partial(decoding.temperature_sample, topk=1)
  expected, _ = _trainers(engine, texts, greedy, prompts[2])
  pairs = [(i, j) for i in (0, 2, 4) for j in range(len(texts))]
  np.random.default_rng(0).shuffle(pairs)
  requests = [_request(engine, texts[j], prompts[i]) for i, j in pairs]
  for (i, j), answer in zip(pairs, _results(engine, requests), strict=True):
    assert i != 2 or _ids(answer) == expected[j]
  assert len(set(map(tuple, expected))) > 2


def test_more_prompts_than_slots(engine, prompts, batches_done):
  """Prompts beyond the slots are swapped in, and answers stay the same."""
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


def test_error_of_a_callback_ends_its_own_request(engine):
  def broken(token):
    raise ConnectionError("gone")

  failing, other = engine.submit(
    [_request(engine, on_token=broken), _request(engine, "hgfe")]
  )
  with pytest.raises(ConnectionError, match="gone"):
    failing.result(60)
  assert _ids(other.result(60)) == _ids(_results(engine, [other.request])[0])


def test_beams_are_those_of_the_trainer(engine):
  (found,) = _results(engine, [_request(engine, "abcd", num_beams=2)])
  (expected,), scores = _trainers(
    engine, ["abcd"], decoding.beam_search, num_decodes=2
  )
  assert _ids(found) == expected
  assert found.score == pytest.approx(float(scores[0]), abs=1e-4)


def test_samples_depend_on_their_seed_alone(engine, prompts):
  def sample(seed, choice, others=()):
    options = {"temperature": 1.0, "seed": seed, "choice": choice}
    request = _request(engine, "abc", prompts[1], **options)
    return tuple(_ids(_results(engine, [request, *others])[0]))

  others = [_request(engine, "hgfedcba", prompts[4], 5)] * 2
  assert sample(3, 0) == sample(3, 0, others)
  assert len({sample(seed, choice) for seed in (1, 2) for choice in (0, 1)}) > 2


@pytest.mark.parametrize("temperature", [0, 1e-42, 2e-38, 1e-3])
def test_coldest_samples_are_the_likeliest_tokens(temperature):
  options = {"temperatures": np.float32([temperature]), "seeds": np.zeros(1)}
  options |= {"choices": np.zeros(1), "limits": None, "wants_top": None}
  logits = np.float32([[8, 9, 10]])
  chosen = choose(logits, Sampling(**options), np.zeros(1, np.int32))
  assert chosen.tolist() == [2]


@pytest.fixture
def programs(engine):
  """A mock that records the calls of compiled programs and makes them.

  The batches' rows do not depend on how busy the machine is.
  """
  with (
    mock.patch.dict(engine._queue._seconds, clear=True),
    mock.patch.object(engine._queue, "took"),
    mock.patch.object(
      CompiledPrograms,
      "__call__",
      autospec=True,
      side_effect=CompiledPrograms.__call__,
    ) as programs,
  ):
    yield programs


def test_samples_of_one_input_are_encoded_once(engine, prompts, programs):
  """Samples equal those drawn alone; another prompt is encoded separately."""
  samples = [
    _request(engine, "abc", prompts[1], temperature=1.0, seed=5, choice=choice)
    for choice in range(4)
  ]
  alone = [_ids(_results(engine, [sample])[0]) for sample in samples]
  programs.reset_mock()
  assert list(map(_ids, _results(engine, samples))) == alone
  _results(engine, [*samples[:3], _request(engine, "abc", prompts[2])])
  calls = [call.args[1:] for call in programs.call_args_list]
  assert [len(x[2]) for x in calls if x[0] == "encode"] == [1, 4]


def test_a_request_takes_the_row_of_one_that_ended(engine, prompts):
  """Greedy and sampled rows that join a batch answer as they do alone."""
  samples = {"temperature": 1.0, "seed": 3, "top_log_probs": 2}
  requests = [
    _request(engine, text, prompt, max_tokens, **options)
    for text, prompt, max_tokens, options in (
      ("abc", prompts[0], 2, {}),
      ("abxcdefgh", None, 8, samples),
      ("x", prompts[4], 8, {}),
      ("hgf", prompts[1], 8, samples),
      ("hello", prompts[0], 7, {"top_log_probs": 1}),
      ("abc", None, 8, {}),
    )
  ]
  alone = [_results(engine, [request])[0] for request in requests]
  assert min(len(answer.tokens) for answer in alone[1:]) > 3
  tickets = [Ticket(request, 0.0) for request in requests]
  shape = engine.settings.shapes.smallest_for(requests[0])

  def batch(*numbers):
    rows = 1 if len(numbers) == 1 else 4
    return Batch([tickets[i] for i in numbers], shape, rows, started=0.0)

  decoding = Decoding(engine._programs, batch(0, 1, 2))
  decoding.advance(3)
  assert tickets[0].done()
  assert decoding.batches[0].left == 2
  assert decoding.free == [0, 3]
  decoding.join(batch(3))
  decoding.advance(1)
  decoding.join(batch(4))
  while not all(ticket.done() for ticket in tickets[:5]):
    decoding.advance(3)
  decoding.join(batch(5))
  while not tickets[5].done():
    decoding.advance(3)
  for ticket, expected in zip(tickets, alone, strict=True):
    answer = ticket.result(0)
    assert _ids(answer) == _ids(expected)
    assert answer.score == pytest.approx(expected.score, abs=1e-4)
    for token, same in zip(answer.tokens, expected.tokens, strict=True):
      assert [x for x, _ in token.top] == [x for x, _ in same.top]
  assert sum(batch.output_tokens for batch in decoding.batches) == sum(
    len(answer.tokens) for answer in alone
  )


def test_waiting_requests_join_running_ones(engine, prompts, programs):
  long = [_request(engine, "abxcdefgh", prompts[i]) for i in (0, 1, 2)]
  short = _request(engine, "hello", prompts[0], 2)
  _results(engine, [*long, short, short])
  names = [call.args[1] for call in programs.call_args_list]
  assert names[:4] == ["encode", "begin", "advance", "encode"]
  assert "join" in names


def test_programs_of_an_earlier_start_are_not_traced_again(
  model, prompts, tmp_path
):
  shapes = Shapes(rows=(1, 2), lengths=(12,), steps=(5,), labels=(8,), beams=())
  settings = Settings(shapes=shapes, longest_prompt=5, slots=1)
  before = jax.config.jax_compilation_cache_dir
  jax.config.update("jax_compilation_cache_dir", str(tmp_path))
  try:
    with engine_lib.Engine(model, settings) as engine:
      request = _request(engine, "abc", prompts[1], 5)
      expected, number = _results(engine, [request]), len(engine._programs)
    methods = ("encode", "begin", "join", "advance", "score")
    refusals = {x: mock.Mock(side_effect=AssertionError) for x in methods}
    again = engine_lib.Engine(model, settings)
    with mock.patch.multiple(model.network, **refusals), again:
      assert _results(again, [request]) == expected
      assert len(again._programs) == number
  finally:
    jax.config.update("jax_compilation_cache_dir", before)


def test_nothing_is_compiled_for_a_new_prompt(engine, prompts):
  number = len(engine._programs)
  # The first request makes JAX compile its programs that move arrays.
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


@pytest.mark.parametrize(
  ("module", "function"), [(jax, "device_put"), (compiled, "_put")]
)
def test_prompts_keep_their_places_when_a_copy_fails(module, function):
  table = compiled.PromptTable(2, 2, 3)
  a, b, c, d = (TunedPrompt(np.full((2, 3), i, np.float32)) for i in range(4))
  table.slots_of([a, b])
  fail = mock.Mock(side_effect=RuntimeError("RESOURCE_EXHAUSTED"))
  with mock.patch.object(module, function, fail), pytest.raises(RuntimeError):
    table.slots_of([c])
  slots = table.slots_of([c, d])
  assert sorted(slots) == [0, 1]
  for prompt, slot in zip((c, d), slots, strict=True):
    np.testing.assert_array_equal(table.arrays[slot], prompt.array)


def test_running_requests_are_counted_while_batches_begin(model):
  engine = engine_lib.Engine(model)

  class Batch:
    @property
    def left(self):  # The engine's thread starts another batch meanwhile.
      engine._running.add(Batch())
      return 2

  engine._running.add(Batch())
  assert engine.running == 2


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
  assert all(ticket.result(0).tokens for ticket in tickets)
  with pytest.raises(engine_lib.ClosedError):
    engine.submit([request])
