"""Compiles a prompt's gradient for devices that are not there.

  python tests/models/compiled_kernels.py flash v5e:2x2
  python tests/models/compiled_kernels.py cudnn TARGET_CONFIG_FILE

Prints, as JSON, how often its program calls which kernel, the devices' kind,
and the bytes of its temporaries with the kernel and without.
"""

import collections
import json
import pathlib
import re
import sys

from flax.linen import partitioning as flax_partitioning
import jax
from jax.experimental import topologies
import jax.numpy as jnp
import numpy as np

from prompt_tuning import prompts
from prompt_tuning.injections import Injections
from prompt_tuning.models.t5 import network
from t5x import partitioning

BATCH, INPUTS, TARGETS, PROMPT = 8, 512, 16, 100


def devices(kernel, where):
  if kernel == "flash":
    return topologies.get_topology_desc(
      platform="tpu", topology_name=where
    ).devices
  return topologies.get_topology_desc(
    platform="cuda",
    target_config=pathlib.Path(where).read_text(),
    topology="1x1x1",
  ).devices


def compiled(kernel, mesh):
  """The program of the gradient of a prompt, with a few layers of T5 base."""
  model = network.Transformer(
    network.T5Config(
      vocab_size=1024,
      emb_dim=768,
      num_heads=12,
      head_dim=64,
      mlp_dim=2048,
      num_encoder_layers=2,
      num_decoder_layers=1,
      dropout_rate=0.0,
      attention_kernel=kernel,
    ),
    Injections(prompt=lambda name: prompts.Prompt(PROMPT, name=name)),
  )
  batch = jax.sharding.NamedSharding(mesh, jax.sharding.PartitionSpec("data"))
  everywhere = jax.sharding.NamedSharding(mesh, jax.sharding.PartitionSpec())

  def tokens(length):
    return jax.ShapeDtypeStruct((BATCH, length), jnp.int32, sharding=batch)

  arguments = (tokens(INPUTS), tokens(TARGETS), tokens(TARGETS))
  params = jax.eval_shape(
    lambda *x: model.init(jax.random.key(0), *x, enable_dropout=False),
    *arguments,
  )["params"]
  params = jax.tree.map(
    lambda x: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=everywhere),
    params,
  )
  prompt = params["encoder"].pop("prompt")

  def loss(prompt, params, *arguments):
    encoder = {**params["encoder"], "prompt": prompt}
    return model.apply(
      {"params": {**params, "encoder": encoder}},
      *arguments,
      enable_dropout=False,
    ).sum()

  rules = partitioning.standard_logical_axis_rules()
  with jax.set_mesh(mesh), flax_partitioning.axis_rules(rules):
    return jax.jit(jax.grad(loss)).lower(prompt, params, *arguments).compile()


def main():
  kernel, where = sys.argv[1:]
  found = np.array(devices(kernel, where))
  axis_type = (jax.sharding.AxisType.Auto,) * 2
  mesh = jax.sharding.Mesh(
    found.reshape(-1, 1 if len(found) == 1 else 2),
    ("data", "model"),
    axis_types=axis_type,
  )
  program = compiled(kernel, mesh)
  calls = re.findall(r'custom_call_target="([^"]+)"', program.as_text())
  print(
    json.dumps(
      {
        "kind": found.flat[0].device_kind,
        "calls": collections.Counter(calls),
        "temporaries": program.memory_analysis().temp_size_in_bytes,
        "temporaries_of_the_plain_form": compiled(None, mesh)
        .memory_analysis()
        .temp_size_in_bytes,
      }
    )
  )


if __name__ == "__main__":
  main()
