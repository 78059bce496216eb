"""The ladder's vocabulary: whole words, sentinels at the end."""

import tensorflow as tf

from prompt_tuning.mini.ladder import examples, vocabulary, world

TEXT = "query: @placeholder is in <extra_id_0> because *she* was"


def test_words_of_prose_and_tasks_are_known():
  known = set(vocabulary.words())
  assert set(world.PEOPLE) <= known
  ladder = vocabulary.ladder()
  for task in examples.TASKS:
    for example in examples.features(task, "test"):
      for text in filter(lambda x: isinstance(x, str), example.values()):
        assert ladder.unk_id not in ladder.encode(text), text


def test_text_is_the_same_in_python_and_tensorflow():
  ladder = vocabulary.ladder()
  ids = ladder.encode(TEXT)
  assert ladder.unk_id not in ids
  assert ladder.encode_tf(tf.constant(TEXT)).numpy().tolist() == ids
  spaced = "query : @ placeholder is in <extra_id_0> because * she * was"
  assert ladder.decode([*ids, ladder.eos_id, 5]) == spaced
  padded = tf.constant([*ids, ladder.eos_id, 0])
  assert ladder.decode_tf(padded).numpy().decode() == spaced


def test_sentinels_are_the_last_ids():
  ladder = vocabulary.ladder()
  assert ladder.encode("<extra_id_0> <extra_id_99> the zebra") == [
    ladder.vocab_size - 1,
    ladder.vocab_size - 100,
    ladder.encode("the")[0],
    ladder.unk_id,
  ]
  assert ladder.vocab_size == 3 + len(vocabulary.words()) + 100


def test_vocabularies_are_equal_by_their_words():
  words = vocabulary.words()
  assert vocabulary.ladder() == vocabulary.WordVocabulary(words)
  assert vocabulary.ladder() != vocabulary.WordVocabulary(words[1:])
