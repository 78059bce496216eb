"""Tests that the gin files parse and that their headers are true."""

import itertools
import re

from absl import flags
import documented
import gin
import jax
import jax.numpy as jnp
import pytest
import seqio
import tiny
import tiny_gin

from prompt_tuning.models.decoder import network as decoder_network
from prompt_tuning.models.t5gemma import network as t5gemma_network
from t5x import adafactor, gin_utils, models, utils
from t5x.configuration import command_flags, reading, resolution
from t5x.runs import preflight

ROOT = documented.ROOT
FILES = sorted(str(p.relative_to(ROOT)) for p in ROOT.glob("gin/**/*.gin"))
# The headers of these files name every macro that a command may set.
PARTS = ("gin/methods/", "gin/prompts/", "gin/decoding/", "gin/optimizers/")
PROMPT_RUN = [
  "gin/models/t5_1_1_small.gin",
  "gin/methods/prompt_tuning.gin",
  "gin/prompts/class_labels.gin",
]
# `python -m t5x.train ...` in README.md and docs/, except for extending.md,
# whose files do not exist here.
COMMANDS = [
  words
  for words in documented.commands(*documented.PAGES)
  if words[:2] == ["python", "-m"]
  and words[2].startswith("t5x.")
  and not any("mine" in word for word in words)
]


def _header(gin_file, field):
  lines = (ROOT / gin_file).read_text().splitlines()
  above = itertools.takewhile(lambda line: line.startswith("#"), lines)
  header = " ".join(line.lstrip("# ") for line in above)
  match = re.search(rf"{field}: (.*?)(?: [A-Z][a-z]+: |$)", header)
  return set(re.findall(r"[A-Z][A-Z0-9_]+", match[1] if match else ""))


@pytest.mark.parametrize("gin_file", FILES)
def test_file_parses_and_its_header_is_true(gin_file):
  tiny_gin.parse([gin_file], finalize=False)
  read = resolution.Bindings([gin_file], paths=reading.search_paths())
  required = set(read.macros) - read.defined
  assert _header(gin_file, "Requires") == required
  assert _header(gin_file, "Uses") == read.lacking - required
  provided = _header(gin_file, "Provides")
  assert provided <= read.defined
  if gin_file.startswith(PARTS):
    # Included files have their own headers.
    own = re.findall(r"(?m)^([A-Z][A-Z0-9_]*) =", (ROOT / gin_file).read_text())
    assert set(own) - required <= provided


@pytest.mark.parametrize("family", ["t5_1_1", "mt5", "byt5"])
@pytest.mark.parametrize(("size", "partitions"), [("xl", 2), ("xxl", 8)])
def test_large_models_fit_devices_of_16_gib(family, size, partitions):
  tiny_gin.parse([f"gin/models/{family}_{size}.gin"], finalize=False)
  assert gin.query_parameter("PARAMETER_DTYPE/macro.value") == "bfloat16"
  assert gin.query_parameter("NUM_PARTITIONS/macro.value") == partitions


def test_one_rate_serves_a_prompt_and_lora():
  """The recipe's steps are relative to the size of the parameter."""
  tiny_gin.parse(["gin/recipes/prompt_and_lora.gin"], finalize=False)
  definition = gin.get_configurable(adafactor.Adafactor)()
  assert definition.multiply_by_parameter_scale


@pytest.mark.parametrize("last", ["methods/lora", "runs/eval"])
def test_evaluation_reads_what_was_trained_in_any_order_of_files(last):
  files = ["gin/methods/lora.gin", "gin/runs/eval.gin"]
  files.sort(key=lambda x: last in x)
  tiny_gin.parse(
    ["gin/models/ladder_s.gin", *files],
    [
      "EVAL_OUTPUT_DIR = 'out'",
      "TASK = 'ladder_cb'",
      "CHECKPOINT_PATH = 'checkpoints/ladder_s/lm_100'",
    ],
  )
  restore = gin.get_configurable(utils.RestoreCheckpointConfig)()
  assert restore.source("encoder/layers_0/attention/query/delta/lora_a")
  assert not restore.fallback_to_scratch


@pytest.mark.parametrize(
  "names",
  ["beam", "beam greedy", "rank greedy", "beam nucleus", "rank nucleus"],
)
@pytest.mark.parametrize("kind", ["EncoderDecoder", "DecoderOnly"])
def test_last_decoding_file_reaches_the_model(names, kind):
  """The file binds a parameter of the method `predict_batch_with_aux`."""
  files = [f"gin/decoding/{name}.gin" for name in names.split()]
  bases = ["gin/models/ladder_s.gin", "gin/models/decoder.gin"]
  tiny_gin.parse([*bases, *files], finalize=False)

  def decode_fn(num_decodes, **unused):
    raise LookupError(num_decodes)

  module = tiny.make_model(with_prompt=False).module
  vocabularies = [seqio.ByteVocabulary()] * (1 + (kind != "DecoderOnly"))
  model = gin.get_configurable(getattr(models, f"{kind}Model"))(
    module, *vocabularies, None, decode_fn
  )
  shapes = tiny.input_shapes()
  params = jax.eval_shape(
    lambda: model.get_initial_variables(jax.random.key(0), shapes)["params"]
  )
  batch = {x: jax.ShapeDtypeStruct(y, int) for x, y in shapes.items()}
  # gin adds addresses to the message, and these may have any digit.
  with pytest.raises(LookupError, match=rf"^{4 if names == 'beam' else 1}\b"):
    jax.eval_shape(model.predict_batch, params, batch)


@pytest.mark.parametrize("words", COMMANDS, ids=lambda words: words[2])
def test_documented_command_is_complete_and_right(words):
  """A command's only problems are files that do not exist here."""
  others = tiny_gin.parse_command(words)
  defined = flags.FlagValues()
  command_flags.define_flags(defined)
  assert {name.removeprefix("--") for name in others} <= set(defined)
  absent = (
    "No checkpoint|cannot be read|is not a file|VOCABULARY_FILE|from the hub"
  )
  program = words[2].removeprefix("t5x.")
  for problem in preflight.problems(program, words[3:]):
    assert re.search(absent, problem), problem


def test_there_are_files_and_commands():
  assert len(FILES) > 15
  assert {words[2] for words in COMMANDS} >= {"t5x.train", "t5x.eval"}


@pytest.mark.parametrize("program", ["train", "eval", "infer"])
def test_base_checkpoint_is_named_not_looked_for(program):
  """With "latest", Google's T5X finds nothing in a checkpoint's own folder."""
  tiny_gin.parse([f"gin/runs/{program}.gin"], finalize=False)
  mode = gin.query_parameter("utils.RestoreCheckpointConfig.mode")
  assert mode == "specific"


@pytest.mark.parametrize(
  ("size", "transformer", "config", "expected"),
  [
    (
      *("llama_3_8b", decoder_network.Transformer, "config.DecoderConfig"),
      8_030_261_248,
    ),
    (
      *("t5gemma_9b_9b", t5gemma_network.Transformer, "config.T5GemmaConfig"),
      20_333_401_088,
    ),
  ],
)
def test_parameter_counts_are_published(size, transformer, config, expected):
  """The counts are the authors'; `parameters_test` has those of T5 1.1."""
  scan = [f"{config}.scan_layers = True"]  # Traced once.
  tiny_gin.parse([f"gin/models/{size}.gin"], scan, finalize=False)
  module = gin.get_configurable(transformer)()
  tokens = jnp.ones((1, 2), "int32")
  shapes = jax.eval_shape(
    lambda rng: module.init(rng, tokens, tokens, tokens, enable_dropout=False),
    jax.random.key(0),
  )
  assert sum(x.size for x in jax.tree.leaves(shapes["params"])) == expected


@pytest.mark.parametrize(
  ("binding", "message"),
  [
    ("PROMT_LENGTH = 20", "Did you mean PROMPT_LENGTH"),
    ("network.T5Config.width = 3", "'width'"),
    ("netwerk.T5Config.emb_dim = 3", "netwerk"),
    (
      "PROMPT_LENGTH = 20",
      "require .*INITIAL_CHECKPOINT_PATH.*Give each a val",
    ),
  ],
)
def test_wrong_configuration_is_refused(binding, message):
  """The parser alone refuses it; `mistakes.toml` tests files and commands."""
  with pytest.raises(ValueError, match=message):
    tiny_gin.parse(PROMPT_RUN, [binding])


def test_flags_become_bindings():
  assert gin_utils.rewrite_gin_args(
    ["train", "--gin.A.B='x=y'", "--gin_file=f"]
  ) == ["train", "--gin_bindings=A.B = 'x=y'", "--gin_file=f"]


def test_search_paths_come_before_the_working_directory(tmp_path, monkeypatch):
  for name, value in (("here", 1), ("there", 2)):
    (tmp_path / name).mkdir()
    (tmp_path / name / "a.gin").write_text(f"X = {value}\n")
  monkeypatch.chdir(tmp_path / "here")
  for path, value in ((str(tmp_path / "there"), 2), (".", 1)):
    gin.clear_config()
    gin_utils.parse_gin_flags([path], ["a.gin"], [])
    assert gin.query_parameter("%X") == value
