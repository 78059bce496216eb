"""Tests of chats and embeddings through OpenAI's client."""

import functools

import numpy as np
import pytest
import served

from prompt_tuning.serving import schemas

MESSAGES = [
  {"role": "system", "content": "You are brief."},
  {"role": "user", "content": "another"},
  {"role": "assistant", "content": "x"},
  {"role": "user", "content": [{"type": "text", "text": "hello"}]},
]


def test_chat_answers_the_last_message_as_a_completion_does(client):
  same = {"model": "prompt_1", "max_tokens": 8}
  (expected,) = client.completions.create(
    **same, prompt="hello", logprobs=2
  ).choices
  chat = functools.partial(
    client.chat.completions.create, messages=MESSAGES, **same
  )
  (whole,) = chat(logprobs=True, top_logprobs=2).choices
  assert whole.message.role == "assistant"
  assert whole.message.content == expected.text
  assert whole.finish_reason == expected.finish_reason
  tokens, logs = whole.logprobs.content, expected.logprobs
  assert [x.token for x in tokens] == logs.tokens
  near = functools.partial(pytest.approx, abs=1e-5)
  assert [x.logprob for x in tokens] == near(logs.token_logprobs)
  tops = [{y.token: y.logprob for y in x.top_logprobs} for x in tokens]
  assert tops == [near(top) for top in logs.top_logprobs]
  *chunks, last = chat(stream=True, stream_options={"include_usage": True})
  assert last.usage == chat().usage
  deltas = [chunk.choices[0].delta for chunk in chunks]
  assert "".join(delta.content for delta in deltas) == expected.text
  assert [x.role for x in deltas] == ["assistant"] + [None] * (len(deltas) - 1)
  # Without a limit, the answer is as long as the server allows.
  free = chat(max_tokens=None, max_completion_tokens=None)
  assert free.choices[0].message.content == expected.text
  # The two fields that replaced OpenAI's `user` are accepted.
  names = {"safety_identifier": "ann", "prompt_cache_key": "ann"}
  short = chat(max_completion_tokens=2, **names)
  assert short.usage.completion_tokens <= 2


def test_part_of_a_character_has_no_bytes():
  """Bytes are null for a token that is only a part of a character."""
  body = schemas.Chat(model="a", messages=MESSAGES)
  tokens = ["\xe9", "\ufffd"]
  logs = {"tokens": tokens, "token_logprobs": [0.0, 0.0], "top_logprobs": None}
  found = [x["bytes"] for x in body.log_probs(logs)["content"]]
  assert found == [[0xC3, 0xA9], None]


def test_embedding_is_the_mean_of_the_encoded_input(client, service, prompts):
  """The mean excludes the prompt; base64 (the default) and floats agree."""
  texts, model = ["abc", "abxcdefg"], service.engine.model
  for name, prompt in ((served.BASE, None), ("prompt_2", prompts[1].array)):
    _, encoded, _ = next(model._batches(texts, prompt, 32))
    start = 0 if prompt is None else len(prompt)
    expected = [
      np.asarray(row)[start : start + len(text) + 1].mean(axis=0)
      for row, text in zip(encoded, texts, strict=True)
    ]
    create = functools.partial(
      client.embeddings.create, model=name, input=texts
    )
    for found in (create(), create(encoding_format="float")):
      assert found.usage.prompt_tokens == 4 + 9
      vectors = [x.embedding for x in found.data]
      np.testing.assert_allclose(vectors, expected, atol=1e-5)
