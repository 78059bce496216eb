"""Tests of plans of tiny commands by all compilers on this machine."""

import dataclasses
import importlib.metadata
import json
import os
import re
from unittest import mock

from documented import ROOT
import jax
import jax.numpy as jnp
import pytest
import started

from t5x.configuration import reading, resolution
from t5x.planning import costs, programs, search, targets

TINY = [
  "TASK_FEATURE_LENGTHS = {'inputs': 12, 'targets': 4}",
  "BATCH_SIZE = 4",
  "network.T5Config.scan_layers = True",
]
FILES = ["gin/models/ladder_xs.gin", "gin/recipes/prompt_tuning.gin"]


@pytest.mark.slow
def test_programs_of_a_train_command_are_compiled():
  """Each program fits a CPU, and its costs and steps are reported."""
  target = targets.find("cpux1")
  with programs.read_command(FILES, TINY, target.devices) as command:
    planned = {
      x.name: (x, costs.estimate(x, target)) for x in command.programs()
    }
  assert list(planned) == ["train", "evaluate", "restore"]
  for program, found in planned.values():
    assert found.fits
    restores = program.name == "restore"
    assert found.weights > 0
    assert restores == (found.argument_bytes < found.weights)
    assert restores == (found.batch == 0)
    said = costs.describe(found, program.steps)
    assert "fits" in said
    assert ("longest inputs" in said) == (program.name == "evaluate")
  assert planned["train"][0].steps == 30_000
  assert planned["evaluate"][0].decode_steps == 4
  # 271,232 parameters and a prompt of 100 x 64, in float32.
  assert planned["train"][1].weights == 4 * (271_232 + 6_400)


@pytest.mark.parametrize(
  ("model", "more", "parameters", "width", "size"),
  [
    ("ladder_xs", [], 271_232, 64, 2),
    ("ladder_xs", ["int8"], 271_232, 64, 1),
    pytest.param(
      *("llama_3_8b", ["int8"], 8_030_261_248, 4096, 1), marks=pytest.mark.slow
    ),
  ],
)
def test_frozen_weights_have_the_dtype_that_they_are_read_in(
  model, more, parameters, width, size
):
  bindings = [*TINY[:2], "PARAMETER_DTYPE = 'bfloat16'", "PROMPT = None"]
  files = [f"gin/models/{name}.gin" for name in (model, *more)] + FILES[1:]
  with programs.read_command(files, bindings, jax.devices()[:1]) as command:
    own = costs.bytes_of(command.state) - 4 * 100 * width
    assert size * parameters <= own < (size + 1) * parameters


def test_operations_in_a_loop_count_every_time():
  matrix = jax.ShapeDtypeStruct((8, 8), jnp.float32)

  def loop(x):
    return jax.lax.scan(lambda x, _: (x @ x, None), x, None, length=5)[0]

  def decode(x):
    return jax.lax.while_loop(lambda x: x[0, 0] < 1, lambda x: x @ x, x)

  for function, times in ((loop, 5), (decode, 7)):
    traced = jax.jit(function).trace(matrix)
    assert costs.flops_of(traced, decode_steps=7) == times * 2 * 8**3


def test_a_bound_allows_for_the_rate_of_int8():
  matrix = jax.ShapeDtypeStruct((8, 8), jnp.int8)
  found = [
    costs.flops_of(jax.jit(lambda x, y: x @ y).trace(matrix, other))
    for other in (matrix, matrix.update(dtype=jnp.float32))
  ]
  assert found == [8**3, 2 * 8**3]


PROGRAM = """
%body.1 (p: (s32[], bf16[2,4])) -> (s32[], bf16[2,4]) {
  %all-reduce.1 = bf16[2,4]{1,0} all-reduce(%x), to_apply=%add
}

%condition.1 (p: (s32[], bf16[2,4])) -> pred[] {
  %constant.2 = s32[]{:T(256)} constant(24)
}

ENTRY %main (p: bf16[2,4]) -> bf16[2,4] {
  %while.1 = (s32[], bf16[2,4]) while(%t), condition=%condition.1, body=%body.1
  %all-reduce-start.1 = (f32[4], f32[8]) all-reduce-start(%y, %z)
  %all-gather-start.1 = (f32[1], f32[4], u32[]) all-gather-start(%y)
  %all-gather-done.1 = f32[4] all-gather-done(%all-gather-start.1)
}
"""
LOOP = "while(%t), condition=%condition.1, body=%body.1"


@pytest.mark.parametrize(
  ("instead", "times"),
  [
    (LOOP, 24),
    # The compiler for GPUs writes this.
    (LOOP + ', backend_config={"known_trip_count":{"n":"24"}}', 24),
    # The branch with the most exchanges counts.
    ("conditional(%i, %a), branch_computations={%none, %body.1}", 1),
    ("conditional(%i), true_computation=%x, false_computation=%body.1", 1),
  ],
)
def test_exchanges_count_in_every_iteration(instead, times):
  exchanged = {
    "all-reduce": [times + 1, times * 16 + 48],
    "all-gather": [1, 16],
  }
  assert costs.collectives_of(PROGRAM.replace(LOOP, instead)) == exchanged


@pytest.mark.parametrize(("name", "bound"), [("train", 4.0), ("restore", None)])
def test_programs_that_the_compiler_refuses(name, bound):
  """The report has the peak and the usable memory from libtpu's message."""
  full = "RESOURCE_EXHAUSTED: Used 7.61G of 7.48G hbm. Exceeded it.\nMore."
  other = "UNIMPLEMENTED: Such a kernel.\nMore."
  traced = mock.Mock(jaxpr=jax.make_jaxpr(lambda x: x @ x)(jnp.ones((2, 2))))
  traced.lower.side_effect = map(jax.errors.JaxRuntimeError, (full, other))
  state = mock.Mock(trainable={}, frozen={}, opt_state={})
  program = programs.Program(name, traced, state, None, 0)
  target = targets.find("cpux1")
  target = dataclasses.replace(target, peak=4.0, bandwidth=1.0)
  found = costs.estimate(program, target)
  assert found.seconds_bound == bound
  assert not found.fits
  assert (found.peak, found.memory) == (7.61 * 2**30, 7.48 * 2**30)
  assert found.refused.endswith("Exceeded it.")
  # Other refusals are errors.
  message = rf"refuses {name} on cpux1: .* Such a kernel\.$"
  with pytest.raises(ValueError, match=message):
    costs.estimate(program, target)


def test_a_program_that_jax_cannot_read_is_measured_all_the_same(monkeypatch):
  """JAX 0.10.1 cannot read programs of libtpu 0.0.52."""
  unread = jax.errors.JaxRuntimeError("INVALID_ARGUMENT: Unknown opcode: mulhi")
  monkeypatch.setattr(
    jax.stages.Compiled, "as_text", mock.Mock(side_effect=unread)
  )
  traced = jax.jit(lambda x: x @ x).trace(jnp.ones((2, 2)))
  state = mock.Mock(trainable={}, frozen={}, opt_state={})
  program = programs.Program("train", traced, state, None, 0)
  found = costs.estimate(program, targets.find("cpux1"))
  assert (found.collectives, found.kernels) == (None, None)
  assert found.flops == 2 * 2**3
  assert found.peak >= 2 * 4 * 2**2
  said = costs.describe(found, None)
  assert "exchanges        unknown, as JAX cannot read" in said
  assert "attention" not in said


@pytest.mark.parametrize(
  ("text", "given", "opened"),
  [
    ("", [], {"TASK_FEATURE_LENGTHS", "TRAIN_STEPS_RELATIVE"}),
    ("TRAIN_STEPS_RELATIVE = 500", [], {"TASK_FEATURE_LENGTHS"}),
    ("", ["TRAIN_STEPS", "TASK_FEATURE_LENGTHS"], set()),
  ],
)
def test_what_a_gin_file_says_is_left_to_it(tmp_path, text, given, opened):
  mine = tmp_path / "mine.gin"
  mine.write_text(text)
  read = resolution.Bindings([*FILES, str(mine)], paths=reading.search_paths())
  assert {*programs.left_open(read, given)} == opened


EVALUATE = [FILES[0], "gin/recipes/evaluate_prompt.gin"]


def test_lengths_may_be_given_and_a_prompts_stands_for_its_file():
  bindings = [
    "PROMPT=None",
    "PROMPT_LENGTH = 7",
    "utils.DatasetConfig.task_feature_lengths = {'inputs': 1138, 'targets': 4}",
  ]
  with programs.read_command(EVALUATE, bindings, jax.devices()[:1]) as command:
    assert command.batch["encoder_input_tokens"].shape == (32, 1138)
    assert command.state.params["encoder"]["prompt"]["prompt"].shape == (7, 64)


def test_search_leaves_alone_what_the_command_sets():
  given = ["PARAMETER_DTYPE = 'float32'", "NUM_PARTITIONS = 1"]
  settings = search.candidates(2, FILES, given)
  assert len(settings) == 2 * 2
  assert not any("P" in x for each in settings for x in each.bindings[1:])
  with pytest.raises(ValueError, match="No gin file names the sizes"):
    search.candidates(2, ["gin/runs/train.gin"], ())


@pytest.mark.parametrize(
  ("model", "config"),
  [
    ("decoder", "base_model.decoder_config"),
    ("llama_3_8b", "config.DecoderConfig"),
    ("t5gemma_9b_9b", "config.T5GemmaConfig"),
  ],
)
def test_search_tries_the_settings_of_any_network(model, config):
  files = [f"gin/models/{model}.gin", "gin/models/int8.gin", FILES[1]]
  bindings = {x.bindings[0] for x in search.candidates(2, files, ())}
  assert bindings == {f"{config}.remat = {x}" for x in (False, True)}


def _report(peak, topology="cpux1", **values):
  """Returns a report of a peak in bytes, on a device with 100 bytes."""
  sizes = {"memory": 100, "weights": 10, "optimizer": 0, "argument_bytes": 10}
  others = {"flops": 0, "compile_seconds": 0, "seconds_bound": 0, **values}
  return costs.CostReport("train", topology, 1, **sizes, peak=peak, **others)


def test_what_jax_cannot_take_of_a_gpu_does_not_fit():
  assert _report(95, taken=0.75).fits
  assert not _report(96, taken=0.75).fits
  assert _report(96, taken=1.0).fits


TOO_MUCH = "others of theirs took too much"
HEAVY = "their weights alone are too much"
DEARER = "others that fit cost less"


@pytest.mark.parametrize(
  ("peak", "changed", "reason"),
  [
    (260, {"remat": True}, ""),
    (260, {"partitions": 4}, TOO_MUCH),
    (260, {"microbatches": 2}, TOO_MUCH),
    # At best, it takes 10 + (260 - 20) / 4, which is less than 100.
    (260, {"microbatches": 4}, ""),
    (260, {"microbatches": 32}, "they divide no batch"),
    (260, {"dtype": "float32", "partitions": 1}, HEAVY),
    (90, {"microbatches": 4}, DEARER),
    # Fewer devices exchange less, and weights of more bits may be wanted.
    (90, {"partitions": 1}, ""),
    (90, {"dtype": "float32"}, ""),
  ],
)
def test_search_skips_what_other_trials_rule_out(peak, changed, reason):
  first = search.Settings(False, 1, 2, "bfloat16")
  shares = {
    (1, "bfloat16"): (20, 16),
    (2, "bfloat16"): (10, 16),
    (4, "bfloat16"): (5, 16),
    (1, "float32"): (101, 16),
    (2, "float32"): (20, 16),
  }
  settings = dataclasses.replace(first, **changed)
  done = {first: _report(peak)}
  assert search.skip_reason(settings, shares, done, 100) == reason


@pytest.mark.parametrize(
  ("topology", "kernels", "said"),
  [
    ("v3:4x4", [], "attention        plain\n"),
    ("v5e:4x4", [], "attention        plain; .*attention_kernel=\"'flash'\" "),
    ("h100x1", [], "attention        plain; .*attention_kernel=\"'cudnn'\" "),
    ("v5e:4x4", ["tpu_custom_call"], "attention        by .*: tpu_custom_call"),
  ],
)
def test_plan_says_which_attention_is_in_a_program(topology, kernels, said):
  found = _report(50, topology, kernels=kernels, flops=1.0)
  assert re.search(said, costs.describe(found, None))


def test_best_has_the_lowest_bound_then_the_least_traffic():
  settings = [search.Settings(True, 1, i, None) for i in range(4)]
  reports = [
    _report(50, seconds_bound=2.0),
    _report(50, seconds_bound=1.0, collectives={"all-reduce": [1, 9]}),
    _report(50, seconds_bound=1.0),
    _report(101, seconds_bound=0.5),
  ]
  done = dict(zip(settings, reports, strict=True))
  assert search.best(done) == [settings[i] for i in (2, 1, 0)]


def test_search_compiles_at_most_some_and_names_reasons_for_others(monkeypatch):
  found = _report(50)
  monkeypatch.setattr(costs, "estimate", lambda program, target: found)
  trials = list(search.search("cpux1", FILES, TINY, tries=1, seconds=60))
  assert trials[0][1] == found
  first = search.describe_trial(trials[0][0], found)
  assert first.startswith("remat = False, NUM_MICROBATCHES = None")
  reasons = {DEARER, "1 others were compiled"}
  assert {reason for *_, reason in trials[1:]} == reasons
  trials = list(search.search("cpux1", FILES, TINY, tries=1, seconds=0))
  assert {reason for *_, reason in trials} == {"0 minutes were over"}


@pytest.mark.slow
@pytest.mark.parametrize(
  ("topology", "package"),
  [("v3:2x2", "libtpu"), ("h100x8", "jax_cuda12_plugin")],
)
def test_compilers_of_tpus_and_gpus_are_asked(topology, package):
  try:
    importlib.metadata.distribution(package)
  except importlib.metadata.PackageNotFoundError:
    pytest.skip(f"{package} is not installed: bash scripts/setup.sh plan")
  done = started.python(
    *("-m", "prompt_tuning", "plan", "--json", f"--topology={topology}"),
    "--programs=train",
    *(f"--gin_file={file}" for file in FILES),
    *(f"--gin_bindings={x}" for x in [*TINY, "BATCH_SIZE = 8"]),
    "--gin.ACTIVATION_DTYPE='bfloat16'",
    cwd=ROOT,
    env={**os.environ, "JAX_PLATFORMS": "cpu"},
  )
  found = json.loads(done.stdout.splitlines()[-1])
  assert found["devices"] == 8
  assert found["seconds_bound"] > 0
  # Devices exchange the prompt's gradient, but none of frozen weights.
  assert found["collectives"]["all-reduce"][1] < found["weights"]
