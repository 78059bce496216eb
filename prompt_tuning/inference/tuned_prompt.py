"""A trained prompt, for programs."""

from collections.abc import Mapping, Sequence
import dataclasses
import os
from typing import Any

import numpy as np

from prompt_tuning import prompt_files


@dataclasses.dataclass(frozen=True)
class TunedPrompt:
  """A prompt with what it was trained on.

  Attributes:
    array: [P, H] float32.
    metadata: What its file says; None if the file says nothing.
    status: How its training ended: "finished", "stopped" or "interrupted"; None
      if it comes from a file.
    evals: The evaluations of its training: {"step", "metrics", "score"}.
  """

  array: np.ndarray = dataclasses.field(repr=False)
  metadata: prompt_files.PromptMetadata | None
  status: str | None = None
  evals: Sequence[Mapping[str, Any]] = dataclasses.field(default=(), repr=False)

  @classmethod
  def load(cls, path: str | os.PathLike[str]) -> "TunedPrompt":
    """Reads a `.safetensors` or `.npy` file.

    Raises:
      ValueError: if there is no such file, or it holds no prompt.
    """
    return cls(*prompt_files.load_prompt(path))

  def save(self, path: str | os.PathLike[str]) -> None:
    """Writes a `.safetensors` file, or a `.npy` without metadata.

    Raises:
      ValueError: if the path has another suffix.
    """
    prompt_files.save_prompt(path, self.array, self.metadata)

  @property
  def length(self) -> int:
    """Positions, P."""
    return len(self.array)

  @property
  def score(self) -> float | None:
    """The validation score that chose it, if one did."""
    return None if self.metadata is None else self.metadata.score
