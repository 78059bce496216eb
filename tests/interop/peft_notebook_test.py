"""A test of PEFT's prompt tuning notebook (huggingface/peft#2642).

The notebook does not learn: its metric is the same after every epoch. PEFT
starts a prompt from N(0, 1), torch's default, but a model's embeddings are near
N(0, 0.02^2). AdamW moves a number by about the learning rate, 1e-3 there. A
prompt that is 50 times as large therefore keeps its direction, and a model's
norms pass on only the direction. The same recipe learns if the prompt starts
from embeddings. Our recipe also learns, at its own rate.
"""

import random

import numpy as np
import pytest
import seqio

import prompt_tuning as pt

torch = pytest.importorskip("torch")
peft = pytest.importorskip("peft")
transformers = pytest.importorskip("transformers")

pytestmark = [
  pytest.mark.interop,
  pytest.mark.slow,
  # PEFT asks transformers for an attribute by its old name.
  pytest.mark.filterwarnings(
    "ignore:`is_gradient_checkpointing`:FutureWarning"
  ),
]
# The notebook's steps in an epoch, and its settings.
STEPS, BATCH, LENGTH, RATE = 115, 32, 10, 1e-3
WIDTH, WORDS = 32, seqio.ByteVocabulary()
_LETTERS = random.Random(0)
PAIRS = [("".join(_LETTERS.choices("bcdefgh", k=8)), "a") for _ in range(64)]
ROWS = [[*WORDS.encode(text), *WORDS.encode("a"), 1] for text, _ in PAIRS]


@pytest.fixture(scope="module")
def decoder(tmp_path_factory):
  """A transformers decoder with embeddings of a usual size, and our copy."""
  torch.manual_seed(0)
  theirs = transformers.LlamaForCausalLM(
    transformers.LlamaConfig(
      **{"vocab_size": 384, "hidden_size": WIDTH, "intermediate_size": 48},
      **{"num_hidden_layers": 2, "num_attention_heads": 4, "eos_token_id": 1},
    )
  )
  for name, weight in theirs.named_parameters():
    if weight.ndim == 2 and "embed_tokens" not in name:
      torch.nn.init.normal_(weight, std=0.2)
  folder = tmp_path_factory.mktemp("decoder")
  theirs.eval().save_pretrained(folder)
  return theirs, pt.load(folder, WORDS)


def _tuned_by_peft(theirs, starts_from_words):
  """Returns a prompt before and after an epoch of the notebook's recipe."""
  torch.manual_seed(0)
  config = peft.PromptTuningConfig(
    task_type="CAUSAL_LM", num_virtual_tokens=LENGTH
  )
  model = peft.get_peft_model(theirs, config)
  prompt = model.prompt_encoder["default"].embedding.weight
  if starts_from_words:
    table = theirs.get_input_embeddings().weight
    prompt.data.copy_(table[torch.randint(3, 259, (LENGTH,))])
  start = prompt.detach().numpy().copy()
  optimizer = torch.optim.AdamW([prompt], lr=RATE)
  schedule = transformers.get_linear_schedule_with_warmup(
    optimizer, 0.06 * STEPS, STEPS
  )
  rows = torch.tensor(ROWS)
  for _ in range(STEPS):
    batch = rows[torch.randperm(len(rows))[:BATCH]]
    mask = torch.ones_like(batch[:, :-1])
    logits = model(input_ids=batch[:, :-1], attention_mask=mask).logits
    loss = torch.nn.functional.cross_entropy(
      logits[:, -2:].flatten(0, 1), batch[:, -2:].flatten()
    )
    optimizer.zero_grad()
    loss.backward()
    optimizer.step()
    schedule.step()
  return start, prompt.detach().numpy().copy()


def test_a_prompt_learns_from_embeddings_and_not_from_the_default(decoder):
  theirs, model = decoder
  texts = [text for text, _ in PAIRS]

  def measured(prompt):
    loss = -model.log_likelihoods(PAIRS, prompt).mean()
    answers = model.generate(texts, prompt, 2)
    return loss, np.mean([x == "a" for x in answers])

  start, stuck = _tuned_by_peft(theirs, starts_from_words=False)
  (before, _), (after, accuracy) = measured(start), measured(stuck)
  assert accuracy < 0.05
  assert after > 0.85 * before
  cosine = (start * stuck).sum() / np.sqrt((start**2).sum() * (stuck**2).sum())
  assert cosine > 0.99
  _, from_words = _tuned_by_peft(theirs, starts_from_words=True)
  ours = model.tune(PAIRS, labels=[], steps=STEPS, batch_size=BATCH)
  for prompt in (from_words, ours):
    loss, accuracy = measured(prompt)
    assert accuracy > 0.8
    assert loss < 0.5 * before
