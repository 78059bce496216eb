"""PEFT's side: transformers' network with its fused attention, and a prompt."""

from collections.abc import Sequence
import os
import pathlib
import sys
import tempfile
from typing import Any

import numpy as np
import peft
import torch
import transformers

from peers import cases
from peers.worker import Call, Outcome
from prompt_tuning.interop import checkpoint_conversion, peft_adapters


def load(
  folder: pathlib.Path, prompts: Sequence[np.ndarray], dtype: str
) -> Any:
  """Reads a transformers model, with adapters "0", "1", ... for prompts."""
  kind = transformers.AutoConfig.from_pretrained(folder).architectures[0]
  base = getattr(transformers, kind).from_pretrained(
    folder, dtype=getattr(torch, dtype), attn_implementation="sdpa"
  )
  model: Any = None
  with tempfile.TemporaryDirectory() as place:
    for i, prompt in enumerate(prompts):
      adapter = pathlib.Path(place) / str(i)
      peft_adapters.save_adapter(adapter, prompt, model=str(folder))
      if model is None:
        model = peft.PeftModel.from_pretrained(base, adapter, adapter_name="0")
      else:
        model.load_adapter(adapter, str(i))
  return model


def make(case: cases.Case, folder: str, variant: str) -> Call:
  """Reads the weights; arguments as for `peers.ours.make`."""
  del variant
  torch.set_num_threads(len(os.sched_getaffinity(0)))
  number = cases.PROMPTS if case.work == "prompts" else 1
  prompts = np.load(f"{folder}/prompts.npy")[:number, : case.prompt]
  model = load(pathlib.Path(folder, "hf"), prompts, case.dtype)
  if case.work == "step":
    return _step(case, model)
  return (_rank if case.work == "rank" else _greedy)(case, model)


def _tensors(rows: dict[str, list[np.ndarray]]) -> dict[str, torch.Tensor]:
  """Pads a batch to its longest input, as PEFT's users collate it."""
  inputs = cases.padded(rows["inputs"])
  targets = cases.padded(rows["targets"])
  return {
    "input_ids": torch.tensor(inputs, dtype=torch.long),
    "attention_mask": torch.tensor(inputs > 0, dtype=torch.long),
    "labels": torch.tensor(
      np.where(targets > 0, targets, -100), dtype=torch.long
    ),
  }


def _joined(rows: dict[str, list[np.ndarray]]) -> dict[str, torch.Tensor]:
  """Joins a decoder's batch; all inputs, and all targets, have one length."""
  inputs, targets = (np.stack(rows[name]) for name in ("inputs", "targets"))
  tokens = torch.tensor(np.hstack([inputs, targets]), dtype=torch.long)
  labels = tokens.clone()
  labels[:, : inputs.shape[1]] = -100
  return {
    "input_ids": tokens,
    "attention_mask": torch.ones_like(tokens),
    "labels": labels,
  }


def _step(case: cases.Case, model: Any) -> Call:
  prompt = model.prompt_encoder["0"].embedding.weight
  prompt.requires_grad_(True)
  optimizer = transformers.Adafactor(
    [prompt], lr=0.3, relative_step=False, scale_parameter=False
  )
  model.train()  # The model has no dropout.
  form = _joined if case.is_decoder else _tensors
  batches = [form(rows) for rows in case.batches()]

  def call(i: int) -> Outcome:
    optimizer.zero_grad()
    loss = model(**batches[i]).loss
    loss.backward()
    outcome = {"loss": loss.item(), "gradient_norm": prompt.grad.norm().item()}
    optimizer.step()
    return outcome

  return call


def generate(model: Any, steps: int, **batch: torch.Tensor) -> np.ndarray:
  """Returns the tokens of greedy answers, after the decoder's start token."""
  tokens = model.generate(**batch, max_new_tokens=steps, do_sample=False)
  tokens = tokens.numpy()[:, 1:]
  return np.pad(tokens, ((0, 0), (0, steps - tokens.shape[1])))


def _greedy(case: cases.Case, model: Any) -> Call:
  """Generates; a batch has one prompt, so each prompt's rows are separate."""
  model.eval()
  number = len(model.peft_config)
  parts = [
    _tensors({name: x[i::number] for name, x in case.batches()[0].items()})
    for i in range(number)
  ]

  def call(i: int) -> Outcome:
    del i
    tokens = np.zeros((case.batch, case.targets), np.int32)
    for first, part in enumerate(parts):
      model.set_adapter(str(first))
      inputs = {x: part[x] for x in ("input_ids", "attention_mask")}
      tokens[first::number] = generate(model, case.targets, **inputs)
    return {"tokens": tokens}

  return call


def _rank(case: cases.Case, model: Any) -> Call:
  """Encodes once, and decodes all labels of all examples at once.

  PEFT has no such function, and its forward pass would encode the input again
  for every label. This is the best that its parts allow.
  """
  model.eval()
  base = model.get_base_model()
  batch = _tensors(case.batches()[0])
  labels = cases.padded([np.array([*label, 1]) for label in cases.LABELS])
  number = len(labels)
  targets = torch.tensor(labels, dtype=torch.long).repeat(case.batch, 1)
  shifted = torch.nn.functional.pad(targets, (1, 0))[:, :-1]
  prompted = torch.nn.functional.pad(
    batch["attention_mask"], (case.prompt, 0), value=1
  )

  @torch.no_grad()
  def call(i: int) -> Outcome:
    del i
    prompts = model.get_prompt(case.batch)
    embedded = base.get_input_embeddings()(batch["input_ids"])
    encoded = base.encoder(
      inputs_embeds=torch.cat([prompts.to(embedded.dtype), embedded], dim=1),
      attention_mask=prompted,
    )
    encoded.last_hidden_state = encoded.last_hidden_state.repeat_interleave(
      number, dim=0
    )
    logits = base(
      encoder_outputs=encoded,
      attention_mask=prompted.repeat_interleave(number, dim=0),
      decoder_input_ids=shifted,
    ).logits
    scores = logits.float().log_softmax(-1)
    scores = scores.gather(-1, targets[..., None])[..., 0]
    scores = torch.where(targets > 0, scores, 0.0).sum(-1)
    return {"scores": np.sort(scores.reshape(case.batch, number).numpy())}

  return call


def write_weights(size: str, folder: pathlib.Path) -> None:
  """Writes one random model for all sides.

  The files are `hf/`, for a T5 also `t5x/`, and `prompts.npy`, [8, P, H]. Files
  of an earlier call stay.

  Args:
    size: A key of `cases.SIZES`.
    folder: The folder to write to.
  """
  prompts = folder / "prompts.npy"
  if prompts.exists():
    return
  sizes = cases.SIZES[size]
  torch.manual_seed(0)
  write = _write_decoder if cases.is_decoder(size) else _write_t5
  scale = write(sizes, folder)
  random = np.random.default_rng(0).normal(
    size=(cases.PROMPTS, 100, sizes["emb_dim"])
  )
  np.save(prompts, (scale * random).astype(np.float32))


def _write_decoder(sizes: dict[str, int], folder: pathlib.Path) -> float:
  """Writes a Llama; returns the scale of its embeddings."""
  config = transformers.LlamaConfig(
    vocab_size=sizes["vocab_size"],
    hidden_size=sizes["emb_dim"],
    num_hidden_layers=sizes["num_layers"],
    num_attention_heads=sizes["num_heads"],
    num_key_value_heads=sizes["num_kv_heads"],
    head_dim=sizes["head_dim"],
    intermediate_size=sizes["mlp_dim"],
    tie_word_embeddings=True,
  )
  transformers.LlamaForCausalLM(config).save_pretrained(folder / "hf")
  return config.initializer_range


def _write_t5(sizes: dict[str, int], folder: pathlib.Path) -> float:
  """Writes a T5 1.1 in both formats; returns the scale of its embeddings."""
  model = transformers.T5ForConditionalGeneration(
    transformers.T5Config(
      vocab_size=cases.VOCAB_SIZE,
      d_model=sizes["emb_dim"],
      num_heads=sizes["num_heads"],
      d_kv=sizes["head_dim"],
      d_ff=sizes["mlp_dim"],
      num_layers=sizes["num_layers"],
      num_decoder_layers=sizes["num_layers"],
      feed_forward_proj="gated-gelu",
      dropout_rate=0.0,
      tie_word_embeddings=False,
      decoder_start_token_id=0,
      scale_decoder_outputs=False,
    )
  )
  # transformers 5 ties the head of a model made from a configuration.
  head = torch.randn(cases.VOCAB_SIZE, sizes["emb_dim"])
  model.lm_head.weight = torch.nn.Parameter(head / sizes["emb_dim"] ** 0.5)
  model.all_tied_weights_keys.pop("lm_head.weight", None)
  model.save_pretrained(folder / "hf")
  checkpoint_conversion.convert(
    checkpoint_conversion.open_model(str(folder / "hf"), "hf"),
    "t5x",
    str(folder / "t5x"),
  )
  return 1.0


if __name__ == "__main__":
  write_weights(sys.argv[1], pathlib.Path(sys.argv[2]))
