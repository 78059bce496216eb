"""Tests of `tokenizers` vocabularies whose id 0 is a piece, not padding."""

import json
import types
from typing import Any

import numpy as np
import pytest
import tensorflow as tf
import tiny_decoder

import prompt_tuning as pt
from prompt_tuning.data import chat_templates, text_pairs, vocabulary
from prompt_tuning.data.tokenizers_vocabulary import TokenizersVocabulary
from prompt_tuning.interop import checkpoint_conversion, hugging_face
from prompt_tuning.models.config import TOKEN_EMBEDDING
from prompt_tuning.serving import completions, schemas
from t5x.formats import int8, stored_arrays

tokenizers = pytest.importorskip("tokenizers")

# Llama 3's layout: id 0 is "!", and special tokens come last.
WORDS = ["!", "a", "b", "Ġb"]


def _tokenizer(*special):
  ids = {word: i for i, word in enumerate(WORDS)}
  model = tokenizers.models.BPE(vocab=ids, merges=[])
  tokenizer = tokenizers.Tokenizer(model)
  tokenizer.add_special_tokens([*special])
  return tokenizer


@pytest.fixture
def path(tmp_path):
  tokenizer = _tokenizer("<start>", "<end>", "<reserved>")
  tokenizer.post_processor = tokenizers.processors.TemplateProcessing(
    single="<start> $A", special_tokens=[("<start>", len(WORDS))]
  )
  # Hugging Face training leaves these settings in the file.
  tokenizer.enable_truncation(2)
  tokenizer.enable_padding(length=9, pad_id=6, pad_token="<reserved>")
  tokenizer.save(str(tmp_path / "tokenizer.json"))
  return tmp_path / "tokenizer.json"


def test_first_piece_changes_places_and_inputs_have_a_start(path):
  words = TokenizersVocabulary(path, eos_id=5)
  assert words.encode("ab!") == [1, 2, 6]
  assert words.of_inputs.encode("ab!") == [4, 1, 2, 6]
  assert words.decode([1, 2, 6, 5, 1]).replace(" ", "") == "ab!"
  assert words.eos_id == 5
  assert words.vocab_size == 7
  encoded = words.of_inputs.encode_tf(tf.constant("ab!"))
  np.testing.assert_array_equal(encoded, [4, 1, 2, 6])
  assert words == TokenizersVocabulary(path, eos_id=5)
  assert words != words.of_inputs


def test_end_token_of_id_0_is_not_padding(tmp_path):
  """An end token of id 0 gets another id; SmolLM's base models have one."""
  folder = tmp_path / "model"
  tiny_decoder.save(folder, eos_token_id=0)
  plain = hugging_face.open_folder(folder)
  table = stored_arrays.read(plain.arrays[TOKEN_EMBEDDING])
  tiny_decoder.save_tokenizer(folder)
  words = hugging_face.vocabulary(str(folder), use_chat_template=False)
  assert words.eos_id == words.exchanged > 0
  found = hugging_face.open_folder(folder).arrays[TOKEN_EMBEDDING]
  np.testing.assert_array_equal(
    stored_arrays.read(found)[[0, words.eos_id]], table[[words.eos_id, 0]]
  )


@pytest.mark.parametrize(
  ("end", "padding"), [("<|im_end|>", 4), ("<|x|>", 383)]
)
def test_no_token_of_a_text_becomes_padding(tmp_path, end, padding):
  """Padding replaces neither a template's piece nor the end (as in Qwen 2)."""
  tokenizer = _tokenizer("<|x|>", "<|im_start|>", "<|im_end|>")
  eos_id = tokenizer.token_to_id(end)
  folder = tmp_path / "model"
  tiny_decoder.save(folder, eos_token_id=eos_id)
  tokenizer.save(str(folder / "tokenizer.json"))
  template = "<|im_start|>{{ messages[0].content }}<|im_end|>"
  chat_templates.write(
    folder, chat_templates.ChatTemplate(template, {"eos_token": end})
  )
  words = pt.load(folder).vocabulary
  assert (words.eos_id, words.exchanged) == (eos_id, padding)
  assert words.of_inputs.encode("a!") == [5, 1, padding, 6]
  assert words.decode([1, padding, eos_id]).replace(" ", "") == "a!"
  found = hugging_face.open_folder(folder).arrays[TOKEN_EMBEDDING]
  (folder / "tokenizer.json").unlink()
  table = hugging_face.open_folder(folder).arrays[TOKEN_EMBEDDING]
  np.testing.assert_array_equal(
    stored_arrays.read(found)[[0, padding]],
    stored_arrays.read(table)[[padding, 0]],
  )


def test_pieces_without_an_embedding_are_left_out(tmp_path):
  """Gemma 3 1B has no embedding for its image piece."""
  folder = tmp_path / "model"
  tiny_decoder.save(folder)
  tiny_decoder.save_tokenizer(folder)
  tokenizer = tokenizers.Tokenizer.from_file(str(folder / "tokenizer.json"))
  tokenizer.add_special_tokens([f"<{i}>" for i in range(125)])
  tokenizer.save(str(folder / "tokenizer.json"))
  words = pt.load(folder).vocabulary
  assert words.vocab_size == 384
  assert words.encode("a<124>b") == words.encode("ab")


def test_embeddings_change_places_with_their_pieces(path, tmp_path):
  folder = tmp_path / "model"
  plain = hugging_face.open_folder(tiny_decoder.save(folder))
  (folder / "tokenizer.json").write_bytes(path.read_bytes())
  table, exchanged = (
    stored_arrays.read(x.arrays[TOKEN_EMBEDDING])
    for x in (plain, hugging_face.open_folder(folder))
  )
  np.testing.assert_array_equal(exchanged[[0, 6]], table[[6, 0]])
  np.testing.assert_array_equal(exchanged[7:], table[7:])
  # A folder that we write has the original order again.
  model = checkpoint_conversion.open_model(str(folder))
  checkpoint_conversion.convert(model, "hf", str(tmp_path / "out"))
  for name in ("model.safetensors", "tokenizer.json"):
    written, given = (tmp_path / x / name for x in ("out", "model"))
    assert written.read_bytes() == given.read_bytes()
  checkpoint_conversion.convert(model, "int8", str(tmp_path / "int8"))
  rounded = int8.held_by(model, int8.names(model, True)).arrays
  for name, array in hugging_face.open_folder(tmp_path / "int8").arrays.items():
    expected = stored_arrays.read(rounded[name])
    np.testing.assert_array_equal(stored_arrays.read(array), expected)


def test_refuses_what_is_no_tokenizer(tmp_path):
  (tmp_path / "tokenizer.json").write_text("{}")
  with pytest.raises(ValueError, match="Expected a Hugging Face tokenizer"):
    TokenizersVocabulary(tmp_path / "tokenizer.json", 1)


def test_a_chat_template_wraps_inputs_and_not_targets(tmp_path):
  folder = tmp_path / "model"
  tiny_decoder.save(folder)
  tiny_decoder.save_tokenizer(folder)
  chat, plain = (
    hugging_face.vocabulary(str(folder), use_chat_template=x)
    for x in (True, False)
  )
  _, end, user, answer = range(4)
  text = plain.encode("ab <user>")
  assert plain.of_inputs.encode("ab <user>") == text
  assert chat.encode("ab <user>") == text
  assert chat.of_inputs.encode("ab <user>") == [user, *text, answer]
  assert chat.eos_id == plain.eos_id == end
  assert len({str(x) for x in map(vocabulary.sha256, (chat, plain))}) == 2
  assert chat != plain
  assert chat.of_inputs != chat
  # The lengths of pairs include the template.
  task = text_pairs.make({"train": [("abc", "x")] * 4}, chat)
  assert task.lengths["train"] == {"inputs": 6, "targets": 2}
  messages = [{"role": "user", "content": x} for x in "ab"]
  body = schemas.Chat.model_validate({"model": "m", "messages": messages})
  engine = types.SimpleNamespace(
    model=pt.load(folder), settings=types.SimpleNamespace(room=1)
  )
  service: Any = types.SimpleNamespace(engine=engine)
  (tokens,) = completions._inputs(
    service, body.given, messages=body.conversation
  )
  a, b = plain.encode("ab")
  assert tokens == (user, a, user, b, answer)


@pytest.mark.interop
@pytest.mark.parametrize(
  "template",
  [
    tiny_decoder.CHAT_TEMPLATE,
    "{% for m in messages %}\n  {% if loop.first %}\n{{ bos_token }}[{{ m }}]\n"
    "  {% endif %}\n{{ m.content | trim | tojson }}{% break %}{% endfor %}",
    "{% for m in messages %}{% generation %}\n  {{ m.content }}"
    "{% endgeneration %}\n<answer>{% endfor %}",
    "{{ unk_token }}{% if tools is not none or documents is not none %}<answer>"
    "{% endif %}{{ messages[0].content }}",
  ],
)
def test_chat_templates_write_the_same(tmp_path, template):
  transformers = pytest.importorskip("transformers")
  tiny_decoder.save(tmp_path / "model")
  tiny_decoder.save_tokenizer(tmp_path / "model")
  tokenizer = transformers.PreTrainedTokenizerFast(
    tokenizer_file=str(tmp_path / "model" / "tokenizer.json"),
    **{"bos_token": "<pad>", "eos_token": "<end>", "chat_template": template},
  )
  tokenizer.save_pretrained(tmp_path / "model")
  config = tmp_path / "model" / "tokenizer_config.json"
  content = json.loads(config.read_text())
  config.write_text(json.dumps({**content, "unk_token": None}))
  words = hugging_face.vocabulary(str(tmp_path / "model"))
  messages = [
    {"role": role, "content": f" {role} <b>é \n"} for role in ("user", "system")
  ]
  expected = tokenizer.apply_chat_template(messages, add_generation_prompt=True)
  assert words.encode_chat(messages) == expected["input_ids"]


def test_a_template_is_told_the_same_date_on_every_day():
  template = chat_templates.ChatTemplate("{{ strftime_now('%d %b %Y') }}", {})
  assert template([]) == "26 Jul 2024"


@pytest.mark.parametrize(
  ("text", "message"),
  [
    ("{{ raise_exception('no system') }}", "refuses the messages: no system"),
    ("{% for x in %}", "template is broken"),
    ("{{ ''.__class__.__mro__ }}", "refuses the messages: .*unsafe"),
  ],
)
def test_refuses_templates(text, message):
  with pytest.raises(ValueError, match=message):
    chat_templates.ChatTemplate(text, {})([])
