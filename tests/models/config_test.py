"""Configurations: refused settings, and sizes from a network's shapes."""

import jax
import jax.numpy as jnp
import pytest

from prompt_tuning.models.t5 import config as config_lib
from prompt_tuning.models.t5 import network

SIZES = {
  "vocab_size": 384,
  "emb_dim": 24,
  "num_heads": 3,
  "num_encoder_layers": 1,
  "num_decoder_layers": 2,
  "head_dim": 4,
  "mlp_dim": 40,
}


@pytest.mark.parametrize(
  "changes",
  [
    {},
    {"num_encoder_layers": 3, "logits_via_embedding": True},
    {"mlp_activations": ("relu",), "relative_attention_num_buckets": 16},
  ],
)
def test_config_is_found_again(changes):
  config = network.T5Config(**{**SIZES, **changes})
  shapes = {
    name: jax.ShapeDtypeStruct(shape, jnp.float32)
    for name, shape in network.parameter_shapes(
      network.Transformer(config)
    ).items()
  }
  assert config_lib.config_of(shapes) == config


def test_parameter_that_determines_a_size_must_exist():
  with pytest.raises(ValueError, match="Expected the parameter token_embedder"):
    config_lib.config_of({"shared.weight": jnp.ones(1)})


@pytest.mark.parametrize(
  ("settings", "message"),
  [
    *(
      ({"dropout_rate": rate}, "Expected a dropout rate in")
      for rate in (10, 1.0, -0.1)
    ),
    *(
      ({"dtype": dtype}, rf"such as float32 or bfloat16, got '{dtype}'")
      for dtype in ("bf16", "float33", "int8", "complex64")
    ),
    ({"remat_keeps": ("mpl",)}, "remat_keeps"),
    ({"remat_keeps": ("mlp",)}, "give remat=True"),
  ],
)
def test_settings_that_no_model_has_are_refused(settings, message):
  with pytest.raises(ValueError, match=message):
    network.T5Config(**SIZES, **settings)
