"""The network with a prompt and its batches, for our side and Google's T5X.

It imports only those parts of `t5x` that Google's T5X has too.
"""

from typing import Any

from flax import traverse_util
import flax.linen as nn
import numpy as np

from peers import cases
from prompt_tuning import prompts
from prompt_tuning.injections import Injections
from prompt_tuning.methods import trainable, voting
from prompt_tuning.models import networks
from prompt_tuning.models.decoder.config import DecoderConfig
from prompt_tuning.models.t5.config import T5Config
from t5x import adafactor, optimizers

# Of both trainers.
LEARNING_RATE = 0.3


class Ids:
  """A vocabulary that encodes ids as themselves.

  seqio has such a vocabulary, but imports TensorFlow, which no step needs.
  """

  eos_id = 1

  def encode(self, ids: tuple[int, ...]) -> tuple[int, ...]:
    return ids


def config(case: cases.Case) -> T5Config | DecoderConfig:
  """Returns the case's network."""
  # A frozen model needs no float32 copy of its weights, and PEFT keeps none.
  sizes: dict[str, Any] = {
    **cases.SIZES[case.size],
    "dtype": case.dtype,
    "param_dtype": case.dtype,
    "dropout_rate": 0.0,
  }
  if case.is_decoder:
    scale = sizes["head_dim"] ** -0.5
    return DecoderConfig(query_scale=scale, logits_via_embedding=True, **sizes)
  layers = sizes.pop("num_layers")
  return T5Config(
    vocab_size=cases.VOCAB_SIZE,
    **sizes,
    num_encoder_layers=layers,
    num_decoder_layers=layers,
  )


def arguments(case: cases.Case, several: bool) -> dict[str, Any]:
  """Returns arguments of the case's model, except those for decoding."""
  prompt = prompts.prompt_factory(case.prompt, prompts.random_uniform())
  if several:
    zeros = nn.initializers.zeros
    prompt = voting.prompts_factory(cases.PROMPTS, case.prompt, zeros)
  is_prompt = trainable.matches_any([".*/prompt/.*"])
  adafactor_def = adafactor.Adafactor(multiply_by_parameter_scale=False)
  vocabularies = ["input_vocabulary", "output_vocabulary"]
  return {
    **dict.fromkeys(["vocabulary"] if case.is_decoder else vocabularies, Ids()),
    "module": networks.make(config(case), Injections(prompt=prompt)),
    "optimizer_def": optimizers.MultiOptimizer(
      ((traverse_util.ModelParamTraversal(is_prompt), adafactor_def),)
    ),
  }


def features(case: cases.Case, rows: Any) -> dict[str, np.ndarray]:
  """Returns a batch in the feature converter's format."""
  targets = cases.padded(rows["targets"], case.longest("targets"))
  return {
    "encoder_input_tokens": cases.padded(
      rows["inputs"], case.longest("inputs")
    ),
    "decoder_input_tokens": np.pad(targets, ((0, 0), (1, 0)))[:, :-1],
    "decoder_target_tokens": targets,
    "decoder_loss_weights": (targets > 0).astype(np.float32),
  }
