"""Sizes of a network, from the shapes of its parameters."""

from flax import traverse_util
import jax
import jax.numpy as jnp
import pytest

from prompt_tuning.injections import Injections
from prompt_tuning.t5 import network
from prompt_tuning.training import architecture


def _shapes(config):
  tokens = jnp.ones((1, 1), jnp.int32)
  variables = jax.eval_shape(
    lambda rng: network.Transformer(config, Injections()).init(
      rng, tokens, tokens, tokens, enable_dropout=False
    ),
    jax.random.key(0),
  )
  return traverse_util.flatten_dict(variables["params"], sep="/")


@pytest.mark.parametrize(
  "changes",
  [
    {},
    {"num_encoder_layers": 3, "logits_via_embedding": True},
    {"mlp_activations": ("relu",), "relative_attention_num_buckets": 16},
  ],
)
def test_config_is_found_again(changes):
  config = network.T5Config(
    **{
      "vocab_size": 384,
      "emb_dim": 24,
      "num_heads": 3,
      "num_encoder_layers": 1,
      "num_decoder_layers": 2,
      "head_dim": 4,
      "mlp_dim": 40,
      "dtype": "float32",
      **changes,
    }
  )
  assert architecture.config_of(_shapes(config)) == config


def test_parameter_that_tells_a_size_must_be_there():
  with pytest.raises(ValueError, match="Expected the parameter token_embedder"):
    architecture.config_of({"shared.weight": jnp.ones(1)})
