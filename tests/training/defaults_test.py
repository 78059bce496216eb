"""Tests of the settings that `tune` chooses."""

import dataclasses
import types

import jax
import numpy as np
import pytest
import tiny_decoder

from prompt_tuning.models.t5.config import T5Config
from prompt_tuning.training import defaults

# Sizes of T5 1.1: width, heads, layers, MLP, parameters.
SIZES = {
  "small": (512, 6, 8, 1024, 76_961_152),
  "base": (768, 12, 12, 2048, 247_577_856),
  "large": (1024, 16, 24, 2816, 783_150_080),
  "xl": (2048, 32, 24, 5120, 2_849_757_184),
}
GIB = 2**30
# Microbatches and GiB of compiled steps on an A100 (results/plan.md): 32 inputs
# of 512 tokens, a prompt of 100, and activations that are computed again.
COMPILED = {
  "small": (1, 1.29),
  "base": (1, 2.76),
  "large": (4, 2.35),
  "xl": (4, 7.10),
}


def facts(
  size,
  platform="gpu",
  gib=12.0,
  rows=1000,
  tokens=128,
  labels=2,
  given=None,
  has_amx=False,
  devices=1,
):
  width, heads, layers, mlp, parameters = SIZES[size]
  config = T5Config(32128, width, heads, layers, layers, 64, mlp)
  return defaults.Facts(
    *(config, parameters, rows, tokens, labels, platform, int(gib * GIB)),
    multiplies_bfloat16=platform != "cpu" or has_amx,
    devices=devices,
    rate=0.3,
    given=given or {},
  )


@pytest.mark.parametrize(
  ("given", "expected"),
  [
    (
      facts("small"),
      {"PROMPT_LENGTH": 20, "LEARNING_RATE": 1.0, "BATCH_SIZE": 32}
      | {"TRAIN_STEPS_RELATIVE": 1000, "ACTIVATION_DTYPE": "bfloat16"},
    ),
    (facts("base"), {"PROMPT_LENGTH": 100, "LEARNING_RATE": 0.3}),
    (facts("small", labels=50), {"PROMPT_LENGTH": 50}),
    (
      facts("small", "cpu"),
      {"BATCH_SIZE": 4, "TRAIN_STEPS_RELATIVE": 2000}
      | {"ACTIVATION_DTYPE": "float32", "PARAMETER_DTYPE": "float32"},
    ),
    (facts("base", "cpu", 0.8), {"PARAMETER_DTYPE": "bfloat16"}),
    (
      facts("small", "cpu", has_amx=True),
      {"ACTIVATION_DTYPE": "bfloat16", "PARAMETER_DTYPE": "bfloat16"},
    ),
    (
      facts("small", rows=3),
      {"BATCH_SIZE": 3, "TRAIN_STEPS_RELATIVE": 500, "EVAL_PERIOD": 50}
      | {"STATS_PERIOD": 5},
    ),
    (facts("small", rows=10**6), {"TRAIN_STEPS_RELATIVE": 5000}),
    # Devices divide a batch, and each has its own memory.
    (facts("small", rows=20, devices=8), {"BATCH_SIZE": 24}),
    (facts("base", tokens=512, devices=3), {"BATCH_SIZE": 33}),
    (
      facts("base", tokens=512, devices=8),
      {"BATCH_SIZE": 32, "network.T5Config.remat": None},
    ),
    # JAX takes 12 of the device's 16 GiB. Inputs have 512 tokens.
    (facts("base", tokens=512), {"network.T5Config.remat": True}),
    (
      facts("xl", tokens=512),
      {"network.T5Config.remat": True, "network.T5Config.scan_layers": True}
      | {"NUM_MICROBATCHES": 2, "PROMPT_LENGTH": 20, "LEARNING_RATE": 0.3},
    ),
    (facts("xl", gib=79), {"network.T5Config.remat": None}),
  ],
)
def test_settings_follow_from_model_data_and_device(given, expected):
  found = {x.name: x.value for x in defaults.choose(given)}
  assert {name: found.get(name) for name in expected} == expected
  assert found["TRAIN_STEPS_RELATIVE"] == 10 * found["EVAL_PERIOD"]
  assert found["EVAL_PERIOD"] == 10 * found["STATS_PERIOD"]
  assert given.rows < 8 or not found["BATCH_SIZE"] % found.get(
    "NUM_MICROBATCHES", 1
  )


def test_rate_of_a_decoder_is_as_small_as_its_embeddings():
  table = np.full([6, 4], -0.1356, np.float32)
  model = types.SimpleNamespace(config=tiny_decoder.config(), embedding=table)
  assert defaults.prompt_rate(model) == 0.01
  given = dataclasses.replace(facts("base"), config=model.config, rate=0.01)
  (rate,) = (x for x in defaults.choose(given) if x.name == "LEARNING_RATE")
  assert rate.value == 0.01


def test_a_run_takes_the_periods_of_any_number_of_steps():
  for steps in [*range(1, 3000), 10_090, 999_983, 1_000_000]:
    stats, evals = defaults.periods(steps)
    assert stats >= 1  # `train` refuses smaller periods.
    assert evals % stats == 0
    assert steps // stats < 200
    assert min(steps, 10) <= steps // evals < 20


def test_settings_fit_those_of_the_user():
  given = {"BATCH_SIZE": 50, "TRAIN_STEPS_RELATIVE": 255, "STATS_PERIOD": 7}
  found = {
    x.name: (x.value, x.reason)
    for x in defaults.choose(facts("xl", tokens=512, given=given))
  }
  assert {name: found[name][0] for name in given} == given
  assert found["TRAIN_STEPS_RELATIVE"][1] == "13 passes over 1,000 rows"
  assert found["EVAL_PERIOD"][0] == 21
  assert 50 % found["NUM_MICROBATCHES"][0] == 0


def test_reasons_are_printed_and_too_little_memory_is_said():
  lines = "\n".join(map(str, defaults.choose(facts("xl", gib=3))))
  assert "  PROMPT_LENGTH = 20: a large model gains little" in lines
  assert "of 3.0 GiB, which may not fit" in lines
  assert "  remat = True: kept activations" in lines


@pytest.mark.parametrize("size", SIZES)
def test_memory_is_estimated_a_little_too_high(size):
  parts, compiled = COMPILED[size]
  found = defaults.step_bytes(
    facts(size, tokens=512), 100, 32 // parts, True, "bfloat16"
  )
  assert compiled <= found / GIB <= 2 * compiled


@pytest.mark.parametrize("flags", ["avx512_bf16", "amx_bf16 amx_tile", None])
def test_device_has_a_platform_and_memory_up_to_a_limit(
  monkeypatch, tmp_path, flags
):
  file = tmp_path / "cpuinfo"
  if flags:
    file.write_text(f"flags : {flags}")
  monkeypatch.setattr(defaults, "_CPU", file)
  limits = [tmp_path / "memory.max", tmp_path / "limit_in_bytes"]
  monkeypatch.setattr(defaults, "_LIMITS", limits)
  limits[0].write_text("max\n")
  platform, memory, multiplies_bfloat16, count = defaults.devices()
  assert (platform, count) == ("cpu", jax.device_count())
  assert memory > GIB
  for limit in limits:  # The limit of a container.
    limit.write_text(f"{GIB // 2}\n")
    assert defaults.devices()[1] == GIB // 2 // count
    limit.unlink()
  assert multiplies_bfloat16 == (flags == "amx_bf16 amx_tile")


@pytest.mark.parametrize(
  ("capability", "expected"),
  [
    ("7.5", False),
    ("8.0", True),
    ("12.0", True),
    ("gfx90a", True),
    (None, True),
  ],
)
def test_gpus_before_ampere_multiply_in_float32(
  monkeypatch, capability, expected
):
  device = types.SimpleNamespace(
    platform="gpu", memory_stats=lambda: {"bytes_limit": 12 * GIB}
  )
  if capability:
    device.compute_capability = capability
  monkeypatch.setattr(defaults.jax, "local_devices", lambda: [device])
  found = "gpu", 12 * GIB, expected, jax.device_count()
  assert defaults.devices() == found
