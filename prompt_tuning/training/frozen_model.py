"""A frozen T5 for programs: tune prompts of it, and answer with them.

  import prompt_tuning as pt

  model = pt.load("checkpoints/t5_small")
  prompt = model.tune([("a fine film", "good"), ("a dull film", "bad"), ...])
  model.generate(["a dull film"], prompt=prompt)

Tuning and evaluation are those of `python -m t5x.train` and `t5x.eval`, without
gin.
"""

from collections.abc import Iterator, Mapping, Sequence
import contextlib
import dataclasses
import os
import tempfile
import threading
from typing import Any

from flax import traverse_util
import jax
import numpy as np
import seqio

from prompt_tuning import prompt_files
from prompt_tuning.data import text_pairs
from prompt_tuning.data import vocabulary as vocabulary_lib
from prompt_tuning.inference.prediction import Predictor
from prompt_tuning.models.t5.config import T5Config, config_of
from prompt_tuning.training import architecture, base_model, tuning
from prompt_tuning.training import examples as examples_lib
from prompt_tuning.training.computed_once import computed_once
from prompt_tuning.training.tuned_prompt import TunedPrompt
from prompt_tuning.types import DType
from t5x import checkpoints
from t5x.runs import events

Prompt = TunedPrompt | np.ndarray | str | os.PathLike[str]


def load(
  checkpoint: str | os.PathLike[str],
  vocabulary: str | os.PathLike[str] | seqio.Vocabulary | None = None,
  dtype: DType | None = None,
  dropout_rate: float | None = None,
  config: T5Config | None = None,
) -> "Model":
  """Opens a base model; its weights are read when they are needed.

  Args:
    checkpoint: A folder `checkpoint_<step>`, or one that holds such folders, as
      `scripts/convert_checkpoint.py` writes it.
    vocabulary: The model's, or its SentencePiece file. By default, the file
      beside the checkpoint; the ladder's models need none.
    dtype: Of activations; by default that of `config`, or float32.
    dropout_rate: In training; by default that of `config`, or the recipes', 0.1
      and, of the ladder's models, 0.
    config: Sizes of the network, where the checkpoint's arrays do not tell.

  Raises:
    ValueError: if there is no checkpoint or no vocabulary, they do not fit, or
      something was added to the network that this would leave out.
  """
  base = checkpoints.open_checkpoint(str(checkpoint))
  if config is None:
    rate = 0.0 if architecture.is_of_ladder(base) else 0.1
    config = dataclasses.replace(
      config_of(base.shapes), dtype="float32", dropout_rate=rate
    )
  given = {"dtype": dtype, "dropout_rate": dropout_rate}
  given = {name: x for name, x in given.items() if x is not None}
  config = dataclasses.replace(config, **given)
  if added := architecture.added_to(base.shapes, config):
    raise ValueError(
      f"{base.path} is no base model: it has {', '.join(added[:3])} besides. "
      "Load what it was trained on, and give its prompt.safetensors with "
      "`prompt=`; of other methods python -m t5x.infer has the answers."
    )
  return Model(base, config, architecture.vocabulary_of(base, vocabulary))


@dataclasses.dataclass(frozen=True)
class _Loaded(checkpoints.BaseCheckpoint):
  """A checkpoint that was read, all of it, once.

  Attributes:
    params: Path of the parameter -> array, on one device.
  """

  params: Mapping[str, jax.Array] = dataclasses.field(default_factory=dict)

  def read(
    self, targets: Mapping[str, jax.ShapeDtypeStruct]
  ) -> dict[str, jax.Array]:
    """Returns some parameters; where they are right already, as they are."""
    return {
      name: jax.device_put(
        self.params[name].astype(target.dtype), target.sharding
      )
      for name, target in targets.items()
    }


class Model:
  """A frozen T5.

  Any number of them may be in use, each by any number of threads.

  Attributes:
    config: Sizes of the network.
    vocabulary: Of inputs and targets.
    lock: Of who reads it into memory.
  """

  def __init__(
    self,
    base: "checkpoints.BaseCheckpoint",
    config: T5Config,
    vocabulary: seqio.Vocabulary,
  ):
    """Keeps its arguments; see `load`."""
    self._base = base
    self.config = config
    self.vocabulary = vocabulary
    # One property needs another.
    self.lock = threading.RLock()

  @property
  def checkpoint(self) -> str:
    """Where the model lies."""
    return self._base.path

  @property
  def name(self) -> str:
    """What the checkpoint calls the model, or the name of its folder."""
    return str(
      self._base.metadata.get("name")
      or os.path.basename(os.path.abspath(self._base.path))
    )

  @computed_once
  def fingerprint(self) -> str:
    """Identifies the model's values."""
    return base_model.identity(self._base)

  @computed_once
  def _loaded(self) -> "_Loaded":
    """The model in memory, float32, on the first device."""
    base = self._base
    device = jax.sharding.SingleDeviceSharding(jax.local_devices()[0])
    params = base.read(
      {
        name: jax.ShapeDtypeStruct(x.shape, np.float32, sharding=device)
        for name, x in base.shapes.items()
      }
    )
    return _Loaded(
      base.path, base.found, base.step, base.arrays, base.metadata, params
    )

  @computed_once
  def params(self) -> Mapping[str, Any]:
    """The model's parameters in memory, float32, on the first device."""
    return traverse_util.unflatten_dict(self._loaded.params, sep="/")

  @computed_once
  def predictor(self) -> Predictor:
    """What answers; it has the model in memory."""
    return Predictor(self.config, self.vocabulary, self.params)

  def generate(
    self,
    inputs: Sequence[str],
    prompt: Prompt | None = None,
    max_length: int = 32,
  ) -> list[str]:
    """Answers texts, by beam search with one beam.

    It may end an answer where greedy decoding would write on.

    Args:
      inputs: Texts.
      prompt: A tuned prompt, its file, or an array [P, H]; None: none.
      max_length: Tokens of an answer, at most.

    Returns:
      An answer for each.

    Raises:
      ValueError: if the prompt is of another model, or `inputs` is one text.
    """
    return self.predictor.generate(inputs, self._array(prompt), max_length)

  def rank(
    self,
    inputs: Sequence[str],
    labels: Sequence[str],
    prompt: Prompt | None = None,
  ) -> list[dict[str, float]]:
    """Scores labels as answers.

    Args:
      inputs: Texts.
      labels: What to choose from.
      prompt: As for `generate`.

    Returns:
      For each input, label -> log likelihood in nats, the likeliest first.

    Raises:
      ValueError: if the prompt is of another model, `inputs` is one text, or a
        label unknown to the vocabulary or there twice.
    """
    return self.predictor.rank(inputs, labels, self._array(prompt))

  def tune(
    self,
    train: text_pairs.Pairs | str,
    validation: text_pairs.Pairs | None = None,
    *,
    length: int | None = None,
    steps: int = 300,
    labels: Sequence[str] | None = None,
    init: str | TunedPrompt | np.ndarray | None = None,
    learning_rate: float = 0.3,
    batch_size: int = 32,
    seed: int = 0,
    eval_period: int | None = None,
    stats_period: int | None = None,
    rank: bool = False,
    folder: str | os.PathLike[str] | None = None,
    on_event: events.OnEvent = events.ignore,
    should_stop: events.ShouldStop = events.never,
  ) -> TunedPrompt:
    """Trains a prompt; the model stays as it is.

    Args:
      train: Pairs (input, target) of texts, or the name of a seqio task, such
        as "super_glue_cb", with its own validation split.
      validation: More pairs, to choose the best prompt by.
      length: Positions of the prompt; by default 100, or those of `init`.
      steps: Of training.
      labels: The legal targets of pairs; an empty list for free text. By
        default those that occur, unless they are many: more than fifty, or
        fewer than four pairs each.
      init: "class_labels", "sampled_vocab", "random_uniform", or a prompt to
        begin with. By default the labels, where there are some.
      learning_rate: Constant.
      batch_size: Examples of a step.
      seed: The same seed gives the same prompt.
      eval_period: Steps between evaluations; by default there are ten.
      stats_period: Steps between losses that `on_event` is told of; by default
        those between evaluations.
      rank: Whether validation ranks the labels instead of generating text.
      folder: For checkpoints, record and prompt; a run that was interrupted
        there goes on. By default nothing is kept.
      on_event: Called with all that happens, in this thread; see
        `t5x.runs.events`.
      should_stop: Asked after every step and batch of evaluation, such as
        `threading.Event().is_set`; True ends the run, with the best prompt so
        far.

    Returns:
      The prompt with the best validation score; without validation, the last.

    Raises:
      ValueError: for wrong examples or settings.
      FloatingPointError: if the loss is not a number.
    """
    if not isinstance(init, str):
      init = self._array(init)
    if length is None:
      length = len(init) if isinstance(init, np.ndarray) else 100
    with _folder(folder) as model_dir:
      settings = tuning.Settings(
        length=length,
        steps=steps,
        init=init,
        learning_rate=learning_rate,
        batch_size=batch_size,
        seed=seed,
        eval_period=eval_period,
        stats_period=stats_period,
        rank=rank,
        folder=model_dir,
      )
      found = self._to_train_on(train, validation, labels, rank)
      _check_ranked(found, rank)
      return tuning.tune(
        self._tuning_base, found, settings, on_event, should_stop
      )

  def evaluate(
    self,
    examples: text_pairs.Pairs | str,
    prompt: Prompt | None = None,
    *,
    labels: Sequence[str] | None = None,
    rank: bool = False,
    batch_size: int = 32,
    folder: str | os.PathLike[str] | None = None,
    on_event: events.OnEvent = events.ignore,
  ) -> Mapping[str, float]:
    """Measures how good answers are.

    Args:
      examples: Pairs (input, target), or the name of a seqio task, whose split
        "validation" is taken.
      prompt: As for `generate`.
      labels: As for `tune`.
      rank: Whether labels are ranked instead of generating text.
      batch_size: Examples of a batch.
      folder: For a record and the predictions; by default nothing is kept.
      on_event: Called after every batch.

    Returns:
      Metric -> value: of labels, accuracy, macro F1 and the share of answers
      that are none; of free text, exact match and F1 of words; in percent.

    Raises:
      ValueError: for wrong examples, or a prompt of another model.
    """
    if not isinstance(examples, str):
      found = examples_lib.of_pairs(None, examples, self.vocabulary, labels)
    elif labels is not None:
      raise ValueError(
        f"The task {examples} has labels of its own: give none, or give pairs."
      )
    else:
      found = examples_lib.of_task(
        examples, self.vocabulary, rank, trains=False
      )
    _check_ranked(found, rank)
    with _folder(folder) as output_dir:
      return tuning.evaluate(
        self._tuning_base,
        found,
        self._array(prompt),
        output_dir,
        batch_size,
        rank,
        on_event,
      )

  @property
  def _tuning_base(self) -> tuning.Base:
    return tuning.Base(self._loaded, self.config, self.vocabulary)

  def _to_train_on(
    self,
    train: text_pairs.Pairs | str,
    validation: text_pairs.Pairs | None,
    labels: Sequence[str] | None,
    rank: bool,
  ) -> examples_lib.Examples:
    if not isinstance(train, str):
      return examples_lib.of_pairs(train, validation, self.vocabulary, labels)
    if validation is not None or labels is not None:
      raise ValueError(
        f"The task {train} has a validation split and labels of its own: give "
        "neither, or give pairs."
      )
    return examples_lib.of_task(train, self.vocabulary, rank, trains=True)

  def _array(self, prompt: Prompt | None) -> np.ndarray | None:
    """Returns the array of a prompt that fits the model."""
    if prompt is None:
      return None
    if isinstance(prompt, str | os.PathLike):
      prompt = TunedPrompt.load(prompt)
    if not isinstance(prompt, TunedPrompt):
      prompt = TunedPrompt(prompt_files.checked(prompt, "An array"), None)
    if prompt.metadata is not None:
      prompt_files.check_compatible(
        prompt.metadata,
        self.fingerprint,
        vocabulary_lib.sha256(self.vocabulary),
      )
    width = self.config.emb_dim
    if prompt.array.ndim != 2 or prompt.array.shape[1] != width:
      raise ValueError(
        f"Expected a prompt of shape [length, {width}], got "
        f"{list(prompt.array.shape)}: it is that of another model."
      )
    return prompt.array


def _check_ranked(examples: examples_lib.Examples, rank: bool) -> None:
  if rank and not examples.labels:
    raise ValueError("Ranking needs labels, and the targets are free text.")


@contextlib.contextmanager
def _folder(given: str | os.PathLike[str] | None) -> Iterator[str]:
  """Yields a folder: that which is given, or a temporary one."""
  if given is not None:
    yield os.fspath(given)
    return
  with tempfile.TemporaryDirectory(prefix="prompt_tuning_") as folder:
    yield folder
