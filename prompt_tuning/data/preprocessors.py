"""Conversion of raw examples to the text that T5 reads and writes.

Each function takes a `tf.data.Dataset` of examples with the features of their
data set in TFDS (`super_glue`, `glue`, `squad`, `mrqa` or
`definite_pronoun_resolution`) and returns one with scalar strings "inputs" and
"targets" and the features that evaluation needs. The text is T5's (Raffel et
al., 2020, appendix D) to the character, without the leading task name:
single-task prompts leave it out (Lester et al., 2021, section 3), and
`add_prefix` puts it back.
"""

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import seqio
import tensorflow as tf

Example = Mapping[str, Any]


def _each_example(
  function: Callable[..., Example],
) -> Callable[..., tf.data.Dataset]:
  """Maps datasets with a function without control flow, so without AutoGraph.

  seqio's types do not show that the result maps a dataset to a dataset.
  """
  plain = tf.autograph.experimental.do_not_convert(function)
  return seqio.map_over_dataset(plain)  # pyright: ignore[reportReturnType]


# T5's target for hidden labels, as in the test splits.
UNLABELLED = "<unk>"
SENTINEL = "<extra_id_0>"


def correct_referents(dataset: tf.data.Dataset, split: str) -> tf.data.Dataset:
  """Leaves out the train examples whose label is false.

  T5 learns to write the referent, so wrong noun phrases cannot be targets. The
  other splits keep them, because T5 has to distinguish them in evaluation.
  """
  if split != "train":
    return dataset
  return dataset.filter(lambda example: example["label"] != 0)


def other_articles(dataset: tf.data.Dataset, split: str) -> tf.data.Dataset:
  """Keeps a tenth of the articles for validation, and the others for training.

  All questions about an article are in the same split.
  """
  return dataset.filter(
    lambda example: (
      (tf.strings.to_hash_bucket_fast(example["title"], 10) == 0)
      == (split == "validation")
    )
  )


@_each_example
def add_prefix(example: Example, prefix: str) -> Example:
  """Puts `prefix`, which ends in a space, in front of the inputs."""
  return {**example, "inputs": prefix + example["inputs"]}


@_each_example
def add_sentinel(example: Example) -> Example:
  """Puts T5's first sentinel in front of the targets.

  Every target of span corruption starts like this (section 2.2 of the paper).
  """
  return {**example, "targets": f"{SENTINEL} " + example["targets"]}


@_each_example
def classification(
  example: Example, *, fields: Mapping[str, str], labels: Sequence[str]
) -> Example:
  """Maps named fields, "premise: It rained. hypothesis: ...", to the label.

  Args:
    example: An example with an integer "label", negative if hidden.
    fields: The name written in the text -> the feature that follows it.
    labels: The string of each class.
  """
  return {
    "inputs": _join_fields(example, fields),
    "targets": _label_string(example["label"], labels),
    "idx": example["idx"],
  }


@_each_example
def similarity(example: Example, *, fields: Mapping[str, str]) -> Example:
  """Maps named fields to a similarity of 0 to 5, in steps of 0.2: "3.8"."""
  label = tf.round(example["label"] * 5) / 5
  return {
    "inputs": _join_fields(example, fields),
    "targets": tf.strings.as_string(label, precision=1),
    "idx": example["idx"],
  }


@_each_example
def question_answering(example: Example) -> Example:
  """Asks a question about a context, in the form of SQuAD or of MRQA.

  The answer is the first of the right "answers". Punctuation has spaces around
  it.
  """
  answers = example["answers"]
  answers = _spaced(answers["text"] if "id" in example else answers)
  question, context = map(_spaced, (example["question"], example["context"]))
  inputs = tf.strings.join(
    ["question:", question, "context:", context], separator=" "
  )
  return {
    "inputs": tf.strings.regex_replace(inputs, r"\s+", " "),
    "targets": answers[0],
    "id": example["id"] if "id" in example else example["qid"],
    "question": question,
    "context": context,
    "answers": answers,
  }


@_each_example
def multirc(example: Example, *, labels: Sequence[str]) -> Example:
  """Asks whether an answer to a question about the paragraph is right."""
  texts = {}
  for field in ("question", "answer", "paragraph"):
    text = tf.strings.regex_replace(example[field], "<br>", " ")
    texts[field] = tf.strings.regex_replace(text, "</?b>", "")
  return {
    "inputs": _join_fields(texts, {field: field for field in texts}),
    "targets": _label_string(example["label"], labels),
    "idx/paragraph": example["idx"]["paragraph"],
    "idx/question": example["idx"]["question"],
    "idx/answer": example["idx"]["answer"],
  }


def record(dataset: tf.data.Dataset) -> tf.data.Dataset:
  """Asks for the entity at the placeholder, once for each right answer.

  An example without answers gives one example with an unlabelled target.
  """

  def one_per_answer(example: Example) -> tf.data.Dataset:
    answers = example["answers"]
    # The bullet points at the end of a news article become sentences.
    passage = tf.strings.regex_replace(
      example["passage"], r"""([.?!"'])\n@highlight\n""", r"\1 "
    )
    passage = tf.strings.regex_replace(passage, r"\n@highlight\n", ". ")
    entities = tf.strings.reduce_join(example["entities"], separator=", ")
    texts = {"query": example["query"], "entities": entities}
    texts["passage"] = passage
    inputs = _join_fields(texts, {field: field for field in texts})
    targets = tf.cond(
      tf.size(answers) > 0, lambda: answers, lambda: tf.constant([UNLABELLED])
    )
    return tf.data.Dataset.from_tensor_slices(targets).map(
      lambda target: {
        "inputs": inputs,
        "targets": target,
        "answers": answers,
        "idx/passage": example["idx"]["passage"],
        "idx/query": example["idx"]["query"],
      }
    )

  return dataset.flat_map(one_per_answer)


@_each_example
def wsc(example: Example) -> Example:
  """Maps the sentence with its *pronoun* marked to the noun phrase in question.

  T5 writes the referent instead of True or False (Raffel et al., section 2.4),
  so "label" (whether the noun phrase is the referent) stays for evaluation.
  """
  # The pronoun is word `span2_index` of the text. Of the 804 sentences four are
  # special cases, which T5 lists literally: in three the word is 'him,"', whose
  # punctuation has to be split off, and in one the pronoun is the next word.
  pronoun, index = example["span2_text"], example["span2_index"]
  words = tf.strings.split(example["text"], sep=" ")
  length = tf.strings.length(pronoun)
  starts_here = tf.strings.substr(words[index], 0, length) == pronoun
  index += tf.cast(~starts_here, index.dtype)
  word = words[index]
  tf.debugging.assert_equal(
    tf.strings.substr(word, 0, length),
    pronoun,
    "Expected the pronoun at span2_index or one word later.",
  )
  glued = tf.strings.substr(word, length, tf.strings.length(word) - length)
  before = tf.strings.reduce_join(words[:index], separator=" ")
  after = tf.strings.reduce_join(words[index + 1 :], separator=" ")
  joined = tf.strings.strip(glued + " " + after)
  after = tf.where(glued == "", after, joined)
  return {
    # T5 marks through a lone X, so one that was in the text becomes a pronoun.
    "inputs": tf.strings.regex_replace(
      tf.strings.join([before, "X", after], separator=" "),
      " X ",
      " *" + pronoun + "* ",
    ),
    "targets": example["span1_text"],
    "label": example["label"],
    "idx": example["idx"],
  }


@_each_example
def wsc_classification(example: Example, *, labels: Sequence[str]) -> Example:
  """Marks a * noun phrase * and a # pronoun #, and asks for True or False."""
  first, second = example["span1_index"], example["span2_index"]
  text = _mark_span(example["text"], example["span1_text"], first, "*")
  # The two marks around the first span count as words now.
  second += 2 * tf.cast(first < second, second.dtype)
  text = _mark_span(text, example["span2_text"], second, "#")
  return {
    "inputs": "text: " + text,
    "targets": _label_string(example["label"], labels),
    "idx": example["idx"],
  }


@_each_example
def dpr(example: Example) -> Example:
  """Writes definite pronoun resolution in the form of `wsc`.

  The pronoun to resolve is the first one in the sentence. As in T5, it is
  marked only if a space, full stop or comma follows.
  """
  marked = tf.strings.regex_replace(
    example["sentence"],
    tf.strings.join([" (", example["pronoun"], ")([ .,])"]),
    r" *\1*\2",
    replace_global=False,
  )
  return {
    "inputs": marked,
    "targets": tf.gather(example["candidates"], example["label"]),
  }


def _join_fields(example: Example, fields: Mapping[str, str]) -> tf.Tensor:
  return tf.strings.join(
    [f"{name}: " + example[feature] for name, feature in fields.items()],
    separator=" ",
  )


def _spaced(text: tf.Tensor) -> tf.Tensor:
  text = tf.strings.regex_replace(text, "([[:punct:]])", r" \1 ")
  return tf.strings.regex_replace(text, r"\s+", " ")


def _label_string(label: tf.Tensor, labels: Sequence[str]) -> tf.Tensor:
  return tf.where(
    label < 0, UNLABELLED, tf.gather(labels, tf.maximum(label, 0))
  )


def _mark_span(
  text: tf.Tensor, span: tf.Tensor, index: tf.Tensor, mark: str
) -> tf.Tensor:
  """Puts marks around the span, if it starts at word `index`."""
  words = tf.strings.split(text, sep=" ")
  starts = tf.strings.length(
    tf.strings.reduce_join(words[:index] + " ", separator="")
  )
  length = tf.strings.length(span)
  rest = tf.strings.substr(text, starts, tf.strings.length(text) - starts)
  # A text without the span there may be shorter.
  behind = tf.minimum(length, tf.strings.length(rest))
  before = tf.strings.substr(text, 0, starts)
  after = tf.strings.substr(rest, behind, tf.strings.length(rest) - behind)
  marked = tf.strings.join([before, f"{mark} ", span, f" {mark}", after])
  return tf.where(tf.strings.substr(rest, 0, length) == span, marked, text)
