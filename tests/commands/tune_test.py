"""Tests of `tune`, `try`, `eval`, `serve` and their equivalents in Python.

The models are random T5s and decoders in Hugging Face format, on a local hub.
"""

import dataclasses
import importlib.util
import io
import json
import shutil
import signal
import types
from typing import Any

import documented
import hf_t5s
import local_hub
import numpy as np
import pandas as pd
import pytest
import seqio
import started
import tiny
import tiny_decoder

import prompt_tuning as pt
from prompt_tuning import prompt_files
from prompt_tuning.commands import console, serve
from prompt_tuning.data import vocabulary
from prompt_tuning.interop import checkpoint_conversion, hub
from prompt_tuning.models.t5.config import T5Config
from prompt_tuning.training import one_command
from t5x.runs import command_line

NAME, DECODER, DATA = "me/tiny", "me/decoder", "me/reviews"
T5GEMMA, INT8, FIRST = "me/t5gemma", "me/int8", "me/t5-1.0"
CONFIG = T5Config(192, 16, 2, 1, 1, head_dim=8, mlp_dim=20)
CONFIG_OF_FIRST = dataclasses.replace(
  CONFIG, mlp_activations=("relu",), logits_via_embedding=True
)
FRAME = pd.DataFrame(
  [
    {"id": i, "text": f"a {x} film number {i}", "label": x}
    for i, x in enumerate(["good", "bad"] * 12)
  ]
)
HAS_TOKENIZERS = importlib.util.find_spec("tokenizers") is not None
SLOW = [
  pytest.mark.slow,
  pytest.mark.skipif(not HAS_TOKENIZERS, reason="needs tokenizers"),
]
MODELS = pytest.mark.parametrize(
  "name",
  [
    NAME,
    pytest.param(FIRST, marks=pytest.mark.slow),
    *(pytest.param(x, marks=SLOW) for x in (DECODER, T5GEMMA, INT8)),
  ],
)
# Many model names contain a dot.
OUT = "tiny-1.7B"
GIN = {"TRAIN_STEPS_RELATIVE": 4, "EVAL_PERIOD": 2, "PROMPT_LENGTH": 3}


def _write(folder, config, texts=None):
  """Writes a random model and, given texts, a vocabulary trained on them."""
  hf_t5s.save(folder, config)
  if texts is not None:
    settings = {"hard_vocab_limit": False, "character_coverage": 1.0}
    path = folder / "spiece.model"
    tiny.train_sentencepiece(path, texts, vocab_size=60, **settings)


@pytest.fixture(scope="module")
def files(tmp_path_factory):
  """Returns the files of the model."""
  folder = tmp_path_factory.mktemp("tiny") / "hf"
  _write(folder, CONFIG, FRAME["text"])
  return {path.name: path.read_bytes() for path in folder.iterdir()}


@pytest.fixture(scope="module")
def other_files(tmp_path_factory):
  """Returns the files of a decoder, its int8 copy, a T5Gemma and a T5 1.0."""
  parent = tmp_path_factory.mktemp("tiny")
  for name, kind in ((DECODER, "tiny_decoder"), (T5GEMMA, "tiny_t5gemma")):
    tiny_decoder.save(parent / name, kind)
    if HAS_TOKENIZERS:
      tiny_decoder.save_tokenizer(parent / name)
  model = checkpoint_conversion.open_model(str(parent / DECODER))
  checkpoint_conversion.convert(model, "int8", str(parent / INT8))
  _write(parent / FIRST, CONFIG_OF_FIRST, FRAME["text"])
  return {
    name: {path.name: path.read_bytes() for path in (parent / name).iterdir()}
    for name in (DECODER, T5GEMMA, INT8, FIRST)
  }


@pytest.fixture
def folder(files, other_files, tmp_path, monkeypatch):
  """Returns the working directory; the hub has the models and the data."""
  monkeypatch.chdir(tmp_path)
  monkeypatch.setattr(vocabulary.MODEL_VOCABULARY, "in_use", None)
  monkeypatch.setattr("t5x.files.compilation_cache.enable", lambda: None)
  FRAME.to_csv("reviews.csv", index=False)
  with local_hub.serving(monkeypatch, tmp_path / "cache") as repositories:
    for name, content in {NAME: files, **other_files}.items():
      repositories["models", name] = content
    content = (tmp_path / "reviews.csv").read_bytes()
    repositories["datasets", DATA] = {"data/train.csv": content}
    yield tmp_path


def tune(*words, name=NAME, data=DATA):
  bindings = [f"--gin.{name}={value}" for name, value in GIN.items()]
  return console.main(
    ["tune", name, data, f"--output={OUT}", *bindings, *words]
  )


def test_settings_are_shown_before_anything_is_done(folder, capsys, caplog):
  assert not tune("--dry-run")
  out, err = capsys.readouterr()
  assert "python -m t5x.train" in out
  assert "--gin.network.T5Config.emb_dim=16" in out
  assert "train 22, validation 2 rows; input text; target label" in err
  assert "  BATCH_SIZE = 4: short steps on a CPU" in err
  # Gin logs this if the first folder of its path lacks a file.
  assert "Path not found" not in caplog.text
  assert not (folder / OUT).exists()


def test_a_binding_names_the_folder_and_the_vocabulary(folder, capsys):
  local = folder / "model"
  shutil.copytree(hub.folder(NAME, hub.MODEL), local)
  (folder / "files").mkdir()
  (local / "spiece.model").rename("files/other.model")
  words = ["tune", "model", "reviews.csv", "--output=out", "--dry-run"]
  assert console.main(words) == 1
  assert "--gin.VOCABULARY_FILE=\"'spiece.model'\"" in capsys.readouterr().err
  given = ["MODEL_DIR='runs/mine'", "VOCABULARY_FILE='files/other.model'"]
  assert not console.main([*words, *(f"--gin.{x}" for x in given)])
  made = one_command.make("model", "reviews.csv", "out", gin_bindings=given)
  assert made.folder == "runs/mine"


def test_files_of_the_user_are_kept_in_training_and_evaluation(
  folder, monkeypatch, capsys
):
  FRAME.rename(columns={"label": "y"}).to_csv("y.CSV", index=False)
  (folder / "own.gin").write_text("LEARNING_RATE = 0.3\nTARGET_COLUMN = 'y'\n")
  words = ["--gin_file=own.gin", "--gin_bindings=BATCH_SIZE=11"]
  words += ["--gin.TRAIN_STEPS_RELATIVE=20", "--tfds_data_dir=tfds"]
  assert not console.main(["tune", NAME, "y.CSV", "--dry_run", *words])
  out, err = capsys.readouterr()
  assert "LEARNING_RATE" not in out + err
  assert "--gin.BATCH_SIZE=11" in out
  assert "--tfds_data_dir=tfds" in out
  assert "runs/tune/tiny-y'" in out
  assert "  EVAL_PERIOD = 2: ten evaluations" in err
  # A recipe's rate is kept too, even if a user's file includes the recipe.
  (folder / "mine.gin").write_text('include "gin/recipes/lora.gin"')
  for file in ("gin/recipes/lora.gin", "mine.gin"):
    words[:1] = [f"--gin_file={file}"]
    last = ["--gin.TARGET_COLUMN='y'", "--gin.TRAIN_STEPS=70"]
    assert not console.main(
      ["tune", NAME, "y.CSV", "--dry_run", *words[:2], *last]
    )
    out, err = capsys.readouterr()
    assert "LEARNING_RATE" not in out + err
    assert "recipes/prompt_tuning.gin" not in out
    assert "TRAIN_STEPS_RELATIVE" not in out + err
  words[:1] = ["--gin_file=own.gin"]

  ran = []

  def run(program, function, unit, gin_files, gin_bindings, show):
    ran.append(gin_bindings)
    metrics = {"y": {"accuracy": 1.0}}
    show(types.SimpleNamespace(best=None) if program == "train" else metrics)

  monkeypatch.setattr(one_command, "_run", run)
  monkeypatch.setattr(one_command, "_report", lambda *arguments: "")
  words = ["--output=gs://bucket/out", "--gin_file=own.gin"]
  words += ["--gin.trainer.Trainer.num_microbatches=1"]
  assert not console.main(["tune", NAME, "y.CSV", *words])
  assert "TARGET_COLUMN = 'y'" in ran[1]
  assert "num_microbatches" in str(ran[0])
  assert "num_microbatches" not in str(ran[1])  # Evaluation knows no trainer.
  assert "EVAL_OUTPUT_DIR = 'gs://bucket/out/frozen'" in ran[1]


def test_each_task_of_a_mixture_is_reported(tmp_path):
  (tmp_path / "inference_eval").mkdir()
  read = {"inputs_pretokenized": "a film", "targets_pretokenized": "good"}
  scores = {"one": {"accuracy": 100.0}, "two": {"matthews_corrcoef": 0.0}}
  for task, answer in zip(scores, ("good", "bad"), strict=True):
    path = tmp_path / "inference_eval" / f"{task}-000007.jsonl"
    path.write_text(json.dumps({"input": read, "output": answer}) + "\n")
  command = types.SimpleNamespace(folder=str(tmp_path))
  best = {"step": 7, "metrics": scores}
  first, second = one_command._report(command, best, scores).split("two:")
  assert first.startswith("\none:")
  assert "prompt       100.0" in first
  assert "answer  100.0" in first
  assert "good  (right)" in first
  assert "prompt         0.0" in second
  assert "most frequent" not in second  # Its correlation would be 0.
  assert "(expected good)" in second


@pytest.mark.skipif(not HAS_TOKENIZERS, reason="needs tokenizers")
def test_a_chat_template_is_a_setting(folder, capsys):
  assert not tune("--dry-run", name=DECODER)
  out, err = capsys.readouterr()
  assert "  use_chat_template = True: the model's own wraps each input" in err
  assert "--gin.hugging_face.vocabulary.use_chat_template=True" in out


def test_an_int8_base_stays_in_int8(folder, capsys):
  model = checkpoint_conversion.open_model(NAME)
  checkpoint_conversion.convert(model, "int8", "int8")
  assert not tune("--dry-run", name="int8")
  assert "--gin_file=gin/models/int8.gin" in capsys.readouterr().out


@MODELS
def test_two_commands_from_names_on_the_hub_to_answers(
  folder, monkeypatch, capsys, name
):
  # A signal stops it; the same command resumes it.
  with monkeypatch.context() as patched:
    patched.setattr(command_line.StopSignals, "should_stop", lambda _: True)
    with pytest.raises(SystemExit, match="143"):
      tune(name=name)
  assert "the same command completes it" in capsys.readouterr().err
  assert not tune(name=name)
  out, err = capsys.readouterr()
  assert "  evaluation:   0%" in err
  for text in (
    "accuracy on 2 rows that were not trained on; the prompt was chosen by",
    "most frequent answer   50.0",
    "frozen model ",
    "with the prompt ",
    f"\nTry it:    prompt-tuning try {OUT}/prompt.safetensors",
  ):
    assert text in out
  assert out.count("    -> ") == 2
  prompt = pt.TunedPrompt.load(f"{OUT}/prompt.safetensors")
  assert prompt.array.shape == (3, 16)
  assert prompt.metadata is not None
  assert prompt.metadata.base_model == name

  # The prompt's file names its model.
  model = pt.load(name)
  texts = ["a good film", "a bad film"]
  monkeypatch.setattr("sys.stdin", io.StringIO("\n".join([*texts, "", ""])))
  assert not console.main(["try", OUT, "--max_length=4"])
  answers = model.generate(texts, prompt, 4)
  assert capsys.readouterr().out == "".join(f"{x}\n" for x in answers)
  assert not console.main(["eval", OUT, "reviews.csv"])
  out, err = capsys.readouterr()
  assert "reviews.csv: input text; target label\n" in err
  (line,) = out.splitlines()
  FRAME.rename(columns={"label": "y"}).to_csv("y.csv", index=False)
  words = ["eval", OUT, "y.csv", "--target_column=y", "--input_columns=text"]
  assert not console.main(words)
  assert capsys.readouterr().out == f"y{line.removeprefix('reviews')}\n"
  scores = model.evaluate("reviews.csv", prompt)
  assert line.startswith(f"reviews.csv: accuracy {scores['accuracy']:.2f}")
  # A checkpoint does not name its model.
  last = next((folder / OUT).glob("checkpoint_*"))
  words = ["serve", OUT, str(last), "--prompts=served"]
  for _ in range(2):
    args = serve.complete(console.parse(words))
  assert args.checkpoint == name
  served, _ = prompt_files.load_prompt(f"served/{OUT}.safetensors")
  np.testing.assert_array_equal(served, prompt.array)
  record = json.loads((folder / OUT / "record.json").read_text())
  assert record["status"] == "finished"


@pytest.mark.parametrize("kind", ["mt5", "byt5"])
def test_a_multilingual_model_brings_its_vocabulary(kind, folder):
  """An mT5 vocabulary file includes sentinels; a ByT5 has no such file."""
  texts = ["ein guter Film", "un film ennuyeux", "とても良い映画"]
  texts += ["скучный фильм", "فيلم جيد", "지루한 영화"]
  rows = [f"{x} {y}" for x in texts for y in texts]
  frame = pd.DataFrame({"text": rows, "label": ["Film", "un"] * 18})
  frame.to_csv("reviews.csv", index=False)
  if kind == "byt5":
    sizes = {"vocab_size": 384, "num_encoder_layers": 3}
    _write(folder / kind, dataclasses.replace(CONFIG, **sizes))
  else:
    _write(folder / kind, CONFIG, texts)
    file = folder / kind / "spiece.model"
    file.write_bytes(seqio.SentencePieceVocabulary(str(file), 100).sp_model)
  assert not tune(name=kind, data="reviews.csv")
  model = pt.load(kind)
  assert all(model.vocabulary.unk_id not in model.encode(x) for x in texts)
  assert [model.vocabulary.decode(model.encode(x)) for x in texts] == texts
  assert len(model.generate(texts, f"{OUT}/prompt.safetensors", 4)) == len(
    texts
  )


@pytest.mark.slow
def test_notebook_from_a_folder_to_a_served_prompt(folder, files, monkeypatch):
  """Runs docs/flan_t5_to_server.ipynb with four steps of a random model."""
  (folder / "flan-t5-base").mkdir()
  for name, content in files.items():
    (folder / "flan-t5-base" / name).write_bytes(content)
  port = started.free_address().partition(":")[2]
  path = documented.ROOT / "docs" / "flan_t5_to_server.ipynb"
  names: dict[str, Any] = {}
  for cell in json.loads(path.read_text())["cells"]:
    if cell["cell_type"] == "code":
      text = "".join(cell["source"]).replace("8000", port)
      exec(text.replace("tune(reviews,", "tune(reviews, steps=4,"), names)
  assert names["server"].returncode == -signal.SIGTERM
  assert len(names["curves"]["loss"]) == len(names["curves"]["score"]) == 4
  assert names["answer"].model == "reviews"
  assert (folder / "adapter" / "adapter_config.json").exists()


@pytest.mark.slow
@MODELS
def test_seven_lines_of_python(folder, capsys, name):
  model = pt.load(name)
  prompt = model.tune(FRAME, steps=2)
  assert prompt.length == 20
  assert len(prompt.evals) == 2
  assert prompt.metadata is not None
  assert prompt.metadata.base_model == name
  assert len(model.generate(["a good film"], prompt=prompt, max_length=4)) == 1
  err = capsys.readouterr().err
  rate = "1.0: better than" if name in (NAME, FIRST) else "0.02: small, as"
  for text in ("target label", f"RATE = {rate}", "tune: ", "accuracy"):
    assert text in err


@pytest.mark.parametrize(
  ("words", "message"),
  [
    (["tune", "me/none", "reviews.csv"], "There is no me/none in "),
    (["try", "moved.safetensors"], "was trained on /gone. No checkpoint at"),
    (["eval", "moved.safetensors", "reviews.csv"], "was trained on /gone"),
    (["serve", "other.npy", "--checkpoint=x"], "is another prompt: remove it"),
    (
      ["serve", "other.npy", "prompts/other.npy", "--checkpoint=x"],
      "Two prompts are called other",
    ),
    (["serve", "moved.safetensors", "two.safetensors"], "of one model, got 2"),
    (
      ["serve", "unmoved.safetensors", "untwo.safetensors"],
      "of one model, got 2",
    ),
    (
      ["library", "two.safetensors", "--target=."],
      "expected one prompt, got 4",
    ),
  ],
)
def test_mistakes_are_one_line(folder, words, message, capsys):
  array = np.ones((2, 16), np.float32)
  for name in ("other.npy", "prompts/other.npy"):
    (folder / name).parent.mkdir(exist_ok=True)
    prompt_files.save_prompt(folder / name, array)
  for name, base in (("moved", "/gone"), ("two", NAME)):
    metadata = prompt_files.PromptMetadata(base, "unknown", base_model=base)
    prompt_files.save_prompt(folder / f"{name}.safetensors", array, metadata)
    metadata = dataclasses.replace(metadata, base_fingerprint="unknown")
    prompt_files.save_prompt(folder / f"un{name}.safetensors", array, metadata)
  path = folder / "prompts" / "other.safetensors"
  prompt_files.save_prompt(path, 2 * array)
  assert console.main(words) == 1
  out, err = capsys.readouterr()
  (line,) = err.splitlines()
  assert message in line
  assert not out
  assert not (folder / "runs").exists()
