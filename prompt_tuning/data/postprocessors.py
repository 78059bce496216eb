"""Decoded text -> what the metrics compare.

Functions in seqio's form: `text` is a prediction, or, with `is_target`, the
target of `example`, whose features they may read instead.
"""

from collections.abc import Callable, Mapping, Sequence
from typing import Any

from prompt_tuning.data.preprocessors import SENTINEL

# The result of a prediction that is not a legal answer, which is always wrong.
# The metrics refuse it as a target.
INVALID = -1

_DETERMINERS = frozenset(
  """a an few her his each every many much my our some that the their these
  this those which whose your""".split()  # noqa: SIM905
)


def without_sentinel(
  text: str,
  example: Mapping[str, Any],
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
  example: Mapping[str, Any],
  is_target: bool = False,
  *,
  labels: Sequence[str],
) -> int:
  """The index of the label that `text` equals exactly, or INVALID."""
  del example, is_target
  return labels.index(text) if text in labels else INVALID


def multirc(
  text: str,
  example: Mapping[str, Any],
  is_target: bool = False,
  *,
  labels: Sequence[str],
) -> dict[str, Any]:
  """{"value": class index}; a target also has its question as "group"."""
  result = {"value": class_index(text, example, labels=labels)}
  if is_target:
    result["group"] = int(example["idx/question"])
  return result


def record(
  text: str,
  example: Mapping[str, Any],
  is_target: bool = False,
) -> dict[str, Any]:
  """{"value": text}; a target has all answers, and its query as "group"."""
  if not is_target:
    return {"value": text}
  return {
    "value": [_as_text(answer) for answer in example["answers"]],
    "group": (int(example["idx/passage"]), int(example["idx/query"])),
  }


def wsc(
  text: str,
  example: Mapping[str, Any],
  is_target: bool = False,
) -> int:
  """Does the predicted referent match the noun phrase in question?

  They match when the words of one are all among the words of the other,
  leaving out determiners and case, and when both or neither have an
  apostrophe: "Bob" is not "Bob's hat".

  Returns:
    1 or 0, or INVALID for a prediction without words; for a target, its label.
  """
  if is_target:
    return int(example["label"])
  predicted = _referent(text)
  # What the task asks for, which may be behind a sentinel too.
  referent = _referent(
    _behind_sentinel(_as_text(example["targets_pretokenized"]))
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


def _as_text(text: str | bytes) -> str:
  return text.decode("utf-8") if isinstance(text, bytes) else text
