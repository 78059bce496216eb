"""Sizes of a network, from the shapes of its parameters."""

from flax import traverse_util
import jax
import jax.numpy as jnp
import pytest

from prompt_tuning.injections import Injections
from prompt_tuning.models.t5 import config as config_lib
from prompt_tuning.models.t5 import network


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
      **changes,
    }
  )
  assert config_lib.config_of(_shapes(config)) == config


def test_parameter_that_tells_a_size_must_be_there():
  with pytest.raises(ValueError, match="Expected the parameter token_embedder"):
    config_lib.config_of({"shared.weight": jnp.ones(1)})


@pytest.mark.parametrize("rate", [10, 1.0, -0.1])
def test_dropout_of_everything_is_refused(rate):
  sizes = dict.fromkeys(
    (
      *("vocab_size", "emb_dim", "num_heads", "num_encoder_layers"),
      *("num_decoder_layers", "head_dim", "mlp_dim"),
    ),
    1,
  )
  with pytest.raises(ValueError, match="Expected a dropout rate in"):
    network.T5Config(**sizes, dropout_rate=rate)
