"""Plans of tiny commands, by this machine's compiler and, if there, others."""

import importlib.util
import json
import os
import pathlib
import subprocess
import sys

import jax
import jax.numpy as jnp
import pytest

from prompt_tuning.planning import command, measures, programs, table, targets

ROOT = pathlib.Path(__file__).parents[2]
TINY = [
  "TASK_FEATURE_LENGTHS = {'inputs': 12, 'targets': 4}",
  "BATCH_SIZE = 4",
  "network.T5Config.scan_layers = True",
]
FILES = ["gin/models/ladder_xs.gin", "gin/recipes/prompt_tuning.gin"]


@pytest.fixture(scope="module")
def planned():
  """Program -> what it takes, of a command without checkpoint and data."""
  return {
    program.name: (program, found)
    for program, found in command.plan("cpux1", FILES, TINY)
  }


def test_programs_of_a_train_command_are_compiled(planned):
  assert list(planned) == ["train", "evaluate", "restore"]
  for program, found in planned.values():
    assert found.fits
    assert 0 < found.weights <= found.argument_bytes
    assert "fits" in command.describe(found, program.steps)
  assert planned["train"][0].steps == 30_000
  assert planned["evaluate"][0].decode_steps == 4


def test_weights_are_those_of_the_model(planned):
  """271,232 parameters and a prompt of 100 x 64, in float32."""
  assert planned["train"][1].weights == 4 * (271_232 + 6_400)


def test_frozen_weights_have_the_dtype_that_they_are_read_in():
  (program,) = programs.programs_of(
    FILES,
    [*TINY, "PARAMETER_DTYPE = 'bfloat16'"],
    jax.devices()[:1],
    ["restore"],
  )
  assert measures.argument_bytes(program) >= 2 * 271_232 + 4 * 6_400
  assert measures.argument_bytes(program) < 3 * 271_232


def test_operations_in_a_loop_count_every_time():
  matrix = jax.ShapeDtypeStruct((8, 8), jnp.float32)

  def loop(x):
    return jax.lax.scan(lambda x, _: (x @ x, None), x, None, length=5)[0]

  def decode(x):
    return jax.lax.while_loop(lambda x: x[0, 0] < 1, lambda x: x @ x, x)

  once = 2 * 8**3
  assert measures.matrix_flops(jax.make_jaxpr(loop)(matrix)) == 5 * once
  jaxpr = jax.make_jaxpr(decode)(matrix)
  assert measures.matrix_flops(jaxpr, decode_steps=7) == 7 * once


PROGRAM = """
%body.1 (p: (s32[], bf16[2,4])) -> (s32[], bf16[2,4]) {
  %all-reduce.1 = bf16[2,4]{1,0} all-reduce(%x), to_apply=%add
}

%condition.1 (p: (s32[], bf16[2,4])) -> pred[] {
  %constant.2 = s32[]{:T(256)} constant(24)
}

ENTRY %main (p: bf16[2,4]) -> bf16[2,4] {
  %while.1 = (s32[], bf16[2,4]) while(%t), condition=%condition.1, body=%body.1
  %all-gather-start.1 = (f32[4], f32[4]) all-gather-start(%y)
  %all-gather-done.1 = f32[4] all-gather-done(%all-gather-start.1)
}
"""


@pytest.mark.parametrize("known", [False, True])
def test_exchanges_in_a_loop_count_every_time(known):
  text = PROGRAM
  if known:  # As GPUs' compiler says it.
    trips = ', backend_config={"known_trip_count":{"n":"24"}}'
    text = text.replace("body=%body.1", "body=%body.1" + trips)
  assert measures.collectives_of(text) == {
    "all-reduce": [24, 24 * 16],
    "all-gather": [1, 16],
  }


@pytest.mark.parametrize("name", ["h100", "v9:4x4", "a10x1"])
def test_unknown_topology_is_refused(name):
  with pytest.raises(ValueError, match="Expected a topology such as v3:4x4"):
    targets.find(name)


def test_command_without_a_run_is_refused():
  with pytest.raises(ValueError, match="configures a run"):
    list(programs.programs_of(FILES[:1], [], jax.devices()[:1]))


def test_mesh_that_does_not_divide_the_batch_is_refused():
  with pytest.raises(ValueError, match="does not divide the 1 devices"):
    list(
      programs.programs_of(
        FILES,
        [*TINY, "partitioning.PjitPartitioner.num_partitions = 3"],
        jax.devices()[:1],
      )
    )


def test_search_leaves_alone_what_the_command_sets():
  settings = list(command.candidates(2, ["PARAMETER_DTYPE = 'float32'"]))
  assert len(settings) == 2 * 2 * 2
  assert not any("DTYPE" in x for chosen in settings for x in chosen)


def test_search_prints_what_fits():
  found = list(command.search("cpux1", FILES, TINY, tries=1))
  assert len(found) == 1
  assert found[0][1].fits


@pytest.mark.parametrize("memory", [8 * 2**30, 16 * 2**30, 80 * 2**30])
@pytest.mark.parametrize("devices", [1, 4, 8, 16, 32, 64])
def test_rule_of_the_table_divides_devices_and_batches(devices, memory):
  for cell in table.cells():
    values = dict(x.split(" = ") for x in cell.bindings(devices, memory))
    share = int(values["partitioning.PjitPartitioner.num_partitions"])
    assert devices % share == 0
    assert table.BATCH_SIZE % (devices // share) == 0
    parts = values["NUM_MICROBATCHES"]
    assert parts == "None" or table.BATCH_SIZE % int(parts) == 0


def test_table_is_made_of_its_records():
  records = table.read([str(x) for x in ROOT.glob("results/plan_*.json")])
  page = (ROOT / "results/plan.md").read_text()
  assert table.page(records) == page


def test_table_says_what_figure_1_takes():
  record = {
    **dict.fromkeys(("size", "method", "topology", "program", "target"), ""),
    **{"size": "xxl", "method": "prompt_tuning", "topology": "v3-32"},
    **{"program": "train", "seconds_bound": 0.12, "devices": 32, "fits": True},
    **{"versions": {}, "peak": None, "memory": 0, "weights": 0, "flops": 0},
    **{"temporaries": 0, "collectives": {}, "flags": []},
  }
  page = table.page([record, {**record, "topology": "v5e-64"}])
  # 30,000 steps of 0.12 s are an hour, on 16 chips, 24 times.
  assert [x for x in page.splitlines() if x.endswith("384 |")] == [
    "| xxl | v3-32 | 1 | 16 | 384 |"
  ]


@pytest.mark.slow
@pytest.mark.parametrize(
  ("topology", "package"),
  [("v3:2x2", "libtpu"), ("h100x8", "jax_cuda12_plugin")],
)
def test_compilers_of_tpus_and_gpus_are_asked(topology, package):
  if importlib.util.find_spec(package) is None:
    pytest.skip(f"{package} is not installed: pip install prompt-tuning[plan]")
  done = subprocess.run(
    [
      sys.executable,
      "scripts/plan.py",
      "--json",
      f"--topology={topology}",
      "--programs=train",
      *(f"--gin_file={file}" for file in FILES),
      *(f"--gin_bindings={x}" for x in TINY),
      "--gin_bindings=BATCH_SIZE = 8",
      "--gin.ACTIVATION_DTYPE='bfloat16'",
    ],
    cwd=ROOT,
    env={**os.environ, "JAX_PLATFORMS": "cpu"},
    capture_output=True,
    text=True,
    check=True,
  )
  found = json.loads(done.stdout.splitlines()[-1])
  assert found["devices"] == 8
  assert found["seconds_bound"] > 0
  # The prompt's gradient, but of nothing that is frozen.
  assert found["collectives"]["all-reduce"][1] < found["weights"]
