"""Facts that an installed package registers with the trainer.

The trainer imports none of its users. A package that brings gin files, tasks
and methods describes them in one `Client`, which its distribution names in the
entry-point group `t5x.clients`.
"""

from collections.abc import Callable, Iterable, Mapping, Sequence
import dataclasses
import functools
import importlib.metadata
from typing import Any

GROUP = "t5x.clients"


@dataclasses.dataclass(frozen=True)
class Client:
  """A package that uses the trainer.

  Patterns of settings are `fnmatch` patterns of resolved names, such as
  `*T5Config.remat`.

  Attributes:
    gin_path: The folder that contains the package's `gin/`.
    gin_kinds: The folders of `gin/`, in the order in which a command names
      their files.
    examples: Program, such as "train", -> arguments of an example command.
    task_names: Returns heading -> names of tasks, for --help. It imports
      nothing slow.
    find_task: Returns the seqio task or mixture, given its name, a split that
      it must have or None, and the module that registers it or None.
    open_model: Returns the `base_checkpoints.BaseCheckpoint` at a path whose
      format or place the package knows; else None.
    next_steps: Returns the lines to print after training, given the run's
      folder, its best evaluation or None, the command's gin files and
      bindings, the other flags that an evaluation needs, and the folders for
      gin files.
    resumable_settings: Patterns of settings that a resumed run may change,
      because they do not change the result of training.
    problems: Yields the problems that a command's files and their headers show,
      given its resolved settings and its gin files. It imports JAX and
      TensorFlow only if it has to.
    base_model_paths: Patterns of settings with the path of the base model; a
      run identifies the model by its fingerprint.
    folders: Patterns of settings that name the folder a run writes to.
    evaluation_settings: Patterns of settings that have no effect before the
      first evaluation.
    unmeasured_settings: Patterns of settings that change no number, because
      they follow from others; they are not part of a run's identity.
    stand_ins: A gin file with values for all files that a command reads, so
      that a plan needs none of them.
    percentages: Names of metrics between 0 and 100.
  """

  gin_path: str
  gin_kinds: Sequence[str] = ()
  examples: Mapping[str, Sequence[str]] = dataclasses.field(
    default_factory=dict
  )
  task_names: Callable[[], Mapping[str, Sequence[str]]] = dict
  find_task: Callable[..., Any] | None = None
  open_model: Callable[[str], Any] | None = None
  next_steps: Callable[..., str] | None = None
  resumable_settings: Sequence[str] = ()
  problems: Callable[[Mapping[str, Any], Sequence[str]], Iterable[str]] = (
    lambda settings, gin_files: ()
  )
  base_model_paths: Sequence[str] = ()
  folders: Sequence[str] = ()
  evaluation_settings: Sequence[str] = ()
  unmeasured_settings: Sequence[str] = ()
  stand_ins: str = ""
  percentages: Sequence[str] = ()


@functools.cache
def clients() -> tuple[Client, ...]:
  """Returns the clients of the installed packages."""
  entries = importlib.metadata.entry_points(group=GROUP)
  return tuple(entry.load() for entry in entries)
