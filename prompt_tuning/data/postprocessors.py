"""Functions from decoded text to the values that the metrics compare.

They have seqio's form: `text` is a prediction or, with `is_target`, the target
of `example`. For a target they may read the example's features instead.
"""

from collections.abc import Callable, Mapping, Sequence
import math
import types
from typing import Any

import tensorflow as tf

from prompt_tuning.data.preprocessors import SENTINEL

Example = Mapping[str, Any]
# The result of a prediction that is not a legal answer, which is always wrong.
# The metrics refuse it as a target.
INVALID = -1

_DETERMINERS = frozenset(
  """a an few her his each every many much my our some that the their these
  this those which whose your""".split()  # noqa: SIM905
)


def without_sentinel(
  text: str,
  example: Example,
  is_target: bool = False,
  *,
  postprocess: Callable[..., Any] | None,
) -> Any:
  """Applies `postprocess` to the text behind a leading sentinel, if any."""
  text = _behind_sentinel(text)
  if postprocess is None:
    return text
  return postprocess(text, example=example, is_target=is_target)


def class_index(
  text: str,
  example: Example,
  is_target: bool = False,
  *,
  labels: Sequence[str],
  synonyms: Mapping[str, str] = types.MappingProxyType({}),
) -> int:
  """Returns the index of the label that `text` equals exactly, or INVALID.

  Args:
    text: The text.
    example: Unused.
    is_target: Unused.
    labels: The label of each class.
    synonyms: Other texts -> the label that each means.
  """
  del example, is_target
  text = synonyms.get(text, text)
  return labels.index(text) if text in labels else INVALID


def number(text: str, example: Example, is_target: bool = False) -> float:
  """Returns the finite number that `text` spells, or INVALID."""
  del example, is_target
  try:
    value = float(text)
  except ValueError:
    return float(INVALID)
  return value if math.isfinite(value) else float(INVALID)


def multirc(
  text: str, example: Example, is_target: bool = False, *, labels: Sequence[str]
) -> dict[str, Any]:
  """Returns {"value": class index}, and for a target its question, "group"."""
  result = {"value": class_index(text, example, labels=labels)}
  if is_target:
    result["group"] = int(example["idx/question"])
  return result


def record(
  text: str, example: Example, is_target: bool = False
) -> dict[str, Any]:
  """Returns {"value": text}, and for a target all answers and a "group"."""
  if not is_target:
    return {"value": text}
  return {
    "value": [*map(tf.compat.as_text, example["answers"])],
    "group": (int(example["idx/passage"]), int(example["idx/query"])),
  }


def qa(text: str, example: Example, is_target: bool = False) -> str | list[str]:
  """Returns the text, or all answers of a target."""
  return [*map(tf.compat.as_text, example["answers"])] if is_target else text


def wsc(text: str, example: Example, is_target: bool = False) -> int:
  """Compares the predicted referent with the noun phrase in question.

  They match if all words of one are among the words of the other, ignoring
  determiners and case, and both or neither have an apostrophe: "Bob" is not
  "Bob's hat".

  Returns:
    1 for a match, 0, or INVALID for a prediction without words; for a target,
    its label.
  """
  if is_target:
    return int(example["label"])
  predicted = _referent(text)
  # The expected referent, which may follow a sentinel too.
  referent = _referent(
    _behind_sentinel(tf.compat.as_text(example["targets_pretokenized"]))
  )
  if not predicted:
    return INVALID
  if ("'" in predicted) != ("'" in referent):
    return 0
  predicted_words = set(predicted.split(" "))
  words = set(referent.split(" "))
  return int(predicted_words <= words or words <= predicted_words)


def _behind_sentinel(text: str) -> str:
  return text.removeprefix(SENTINEL).removeprefix(" ")


def _referent(text: str) -> str:
  words = text.strip().lower().split(" ")
  return " ".join(word for word in words if word not in _DETERMINERS)
