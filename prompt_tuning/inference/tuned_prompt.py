"""A trained prompt in Python."""

from collections.abc import Mapping, Sequence
import dataclasses
import os
from typing import Any

import numpy as np

from prompt_tuning import prompt_files


@dataclasses.dataclass(frozen=True)
class TunedPrompt:
  """A prompt with its metadata.

  Attributes:
    array: [P, H] float32.
    metadata: The header of its file; None if the file has none.
    status: The end of its training: "finished", "stopped" or "interrupted";
      None if the prompt comes from a file.
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
      ValueError: if there is no such file, or it does not hold a prompt.
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
    """Number of positions, P."""
    return len(self.array)

  @property
  def score(self) -> float | None:
    """The validation score it was chosen by, if there was one."""
    return None if self.metadata is None else self.metadata.score
