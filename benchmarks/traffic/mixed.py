"""Mixed traffic in one process: against one prompt, PEFT and `t5x.infer`."""

from collections.abc import Callable, Sequence
import copy
import functools
import pathlib
import time
from typing import Any

import jax
import numpy as np

import harness
from peers import cases
import prompt_tuning as pt
from prompt_tuning import prompt_files, prompts
from prompt_tuning.inference.batch_queue import Settings, Shapes
from prompt_tuning.inference.engine import Engine
from prompt_tuning.inference.programs import Network
from prompt_tuning.inference.requests import Generation, TunedPrompt
from prompt_tuning.injections import Injections
from prompt_tuning.interop import checkpoint_conversion
from prompt_tuning.serving import demo
from prompt_tuning.training import base_model, tuning
from t5x import decoding

TOKENS = 8
# Positions of each of many prompts.
POSITIONS = 20
_EOS = 1


def make_prompts(model: pt.Model, lengths: Sequence[int]) -> list[TunedPrompt]:
  """Makes prompts of token embeddings, which change the answers."""
  table = base_model.token_embedding(model.checkpoint)
  rng = np.random.default_rng(0)
  return [
    TunedPrompt(table[rng.integers(3, len(table), length)], name=f"prompt_{i}")
    for i, length in enumerate(lengths)
  ]


def save_prompts(prompts: Sequence[TunedPrompt], folder: pathlib.Path) -> None:
  """Writes prompts to the place where a server with this folder reads them."""
  place = folder / "prompts"
  place.mkdir(exist_ok=True)
  for prompt in prompts:
    prompt_files.save_prompt(place / f"{prompt.name}.npy", prompt.array)


def texts(model: pt.Model, task: str, number: int) -> list[str]:
  """Returns a task's inputs as text."""
  found = [text for text, _ in demo.pairs(model, task, "train", number)]
  return [found[i % len(found)] for i in range(number)]


def make_engine(model: pt.Model, longest: int, apart: int) -> Engine:
  """Makes an engine for traffic with prompts and short inputs.

  Args:
    model: The frozen model.
    longest: Positions of a prompt and an input together.
    apart: Positions between the lengths of batches.
  """
  shapes = Shapes(
    rows=(1, 4, 16),
    lengths=range(32, longest + apart, apart),
    steps=(TOKENS,),
    labels=(16,),
    beams=(),
  )
  return Engine(model, Settings(shapes=shapes, longest_prompt=100, room=4096))


def answer(
  engine: Engine, inputs: Sequence[Sequence[int]], found: Sequence[TunedPrompt]
) -> list[list[int]]:
  """Submits all requests at once; returns the tokens of each answer."""
  tickets = engine.submit(
    [
      Generation(tokens, prompt, TOKENS)
      for tokens, prompt in zip(inputs, found, strict=True)
    ]
  )
  return [[t.id for t in ticket.result().tokens] for ticket in tickets]


def _endless(model: pt.Model) -> pt.Model:
  """Returns a model whose answers all have the greatest length.

  Otherwise prompts with shorter answers would be faster, whatever their number.
  """
  found = copy.copy(model)
  found.network = Network(model.config, eos_id=-1)
  return found


def peft_of(
  model: pt.Model, found: Sequence[TunedPrompt], folder: pathlib.Path
) -> Callable[[str, int], list[int]]:
  """Loads PEFT with some prompts; its files are in `folder`.

  Returns:
    (text, number of a prompt) -> the tokens of PEFT's answer.
  """
  import torch

  import peers.peft

  place = folder / "model"
  checkpoint_conversion.convert(
    checkpoint_conversion.open_model(model.checkpoint, "t5x"), "hf", str(place)
  )
  arrays = [prompt.array for prompt in found]
  peft = peers.peft.load(place, arrays, str(model.config.dtype))
  peft.eval()

  def of_peft(text: str, number: int) -> list[int]:
    peft.set_adapter(str(number))
    ids = torch.tensor([model.encode(text)])
    mask = torch.ones_like(ids)
    (tokens,) = peers.peft.generate(
      peft, TOKENS, input_ids=ids, attention_mask=mask
    ).tolist()
    return _until_end(tokens)

  return of_peft


def throughput(
  model: pt.Model, task: str, number: int, rounds: int, folder: pathlib.Path
) -> dict[str, Any]:
  """Compares fifty prompts with PEFT, and with one prompt, in turns.

  Against one prompt, all answers have the same number of tokens.

  Args:
    model: The frozen model.
    task: The task of the inputs.
    number: Requests of a turn.
    rounds: Turns of each side.
    folder: A folder for PEFT's files.

  Returns:
    Seconds of each turn, for `number` requests (PEFT: for a sixteenth), and the
    number of PEFT's answers that equal ours.
  """
  lengths = [round(x) for x in np.linspace(1, 100, 50)]
  found = make_prompts(model, lengths)
  # A prompt of their mean length, so that the work is the same.
  (single,) = make_prompts(model, [round(float(np.mean(lengths)))])
  inputs = texts(model, task, number)
  order = np.random.default_rng(1).integers(0, len(found), number)
  few = list(zip(inputs, order, strict=True))[: max(1, number // 16)]
  of_peft = peft_of(model, found, folder)
  longest = max(len(model.encode(x)) for x in inputs) + 100

  def ask_all(engine: Engine, of: Sequence[TunedPrompt]) -> list[list[int]]:
    return answer(engine, [model.encode(x) for x in inputs], of)

  mixed, alone = [found[i] for i in order], [single] * number
  sides: dict[str, list[float]] = {}
  # With many lengths, the shares of padding are similar.
  with (
    make_engine(model, longest, apart=16) as engine,
    make_engine(_endless(model), longest, apart=16) as endless,
  ):
    asked = {
      "fifty": lambda: ask_all(engine, mixed),
      "peft": lambda: [of_peft(text, i) for text, i in few],
      "endless_fifty": lambda: ask_all(endless, mixed),
      "endless_one": lambda: ask_all(endless, alone),
    }
    answers = {name: ask() for name, ask in asked.items()}  # Also warms up.
    for _ in range(rounds):
      for name, ask in asked.items():
        start = time.monotonic()
        ask()
        sides.setdefault(name, []).append(time.monotonic() - start)
    bytes_of_prompts = engine.table.nbytes
  same = sum(
    ours == theirs
    for ours, theirs in zip(answers["fifty"], answers["peft"], strict=False)
  )
  return {
    "requests": number,
    "requests_of_peft": len(few),
    "seconds": sides,
    "same_as_peft": same,
    "prompt_table_bytes": bytes_of_prompts,
    "prompt_bytes": sum(prompt.array.nbytes for prompt in found),
  }


def equality(model: pt.Model, task: str, number: int) -> dict[str, Any]:
  """Compares answers under load with those of `t5x.infer`.

  Args:
    model: The frozen model.
    task: The task of the inputs.
    number: Inputs in all, each with one of ten prompts.

  Returns:
    The number of equal answers, as tokens and as text, and their number of
    tokens.
  """
  found = make_prompts(model, [1, 5, 10, 20, 30, 40, 50, 70, 90, 100])
  inputs = texts(model, task, number)
  longest = max(len(model.vocabulary.encode(x)) for x in inputs) + 101
  order = np.random.default_rng(2).permutation(number)
  with make_engine(model, longest, apart=32) as engine:
    answered = answer(
      engine,
      [model.encode(inputs[i]) for i in order],
      [found[i % len(found)] for i in order],
    )
  answers = dict(zip(order.tolist(), answered, strict=True))
  same_tokens = same_text = 0
  decode = model.vocabulary.decode
  for j, prompt in enumerate(found):
    mine = range(j, number, len(found))
    decoded = _decode(model, prompt, [inputs[i] for i in mine])
    for i, tokens in zip(mine, decoded, strict=True):
      same_tokens += answers[i] == tokens
      same_text += decode(answers[i]) == decode(tokens)
  return {
    "inputs": number,
    "prompts": len(found),
    "same_tokens": same_tokens,
    "same_text": same_text,
    "tokens": sum(map(len, answers.values())),
    "different_answers": len(set(map(tuple, answers.values()))),
  }


def _decode(
  model: pt.Model, prompt: TunedPrompt, inputs: list[str]
) -> list[list[int]]:
  """Decodes like `t5x.infer`; returns tokens up to the end."""
  init = prompts.from_array(prompt.array)
  method = Injections(prompt=prompts.prompt_factory(prompt.length, init))
  runner = tuning.make_model(model.config, model.vocabulary, method)
  runner.decode_fn = functools.partial(decoding.temperature_sample, topk=1)
  encoder = {**model.params["encoder"], "prompt": {"prompt": prompt.array}}
  encoded = [np.array(model.encode(text), np.int32) for text in inputs]
  tokens = jax.jit(runner.predict_batch)(
    {**model.params, "encoder": encoder},
    {
      "encoder_input_tokens": cases.padded(encoded),
      "decoder_input_tokens": np.zeros((len(inputs), TOKENS), np.int32),
    },
  )
  return list(map(_until_end, np.asarray(tokens).tolist()))


def _until_end(tokens: list[int]) -> list[int]:
  return tokens[: tokens.index(_EOS)] if _EOS in tokens else tokens


def values(record: dict[str, Any]) -> dict[str, Any]:
  """See `serving.rows`."""
  if record["part"] == "equality":
    return {}
  seconds = {k: np.array(v) for k, v in record["seconds"].items()}
  number, few = record["requests"], record["requests_of_peft"]
  over_peft = (seconds["peft"] / few) / (seconds["fifty"] / number)
  return {
    "rate": number / np.median(seconds["fifty"]),
    "over_one": harness.spread(
      seconds["endless_one"] / seconds["endless_fifty"]
    ),
    "over_peft": harness.spread(over_peft),
    "table": record["prompt_table_bytes"] / 1e6,
  }
