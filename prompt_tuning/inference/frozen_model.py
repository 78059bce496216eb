"""A frozen model in memory, which answers with any prompt."""

from collections.abc import Iterator, Mapping, Sequence
import dataclasses
import functools
import os
import threading
from typing import Any, Self, cast

from flax import traverse_util
import jax
import jax.numpy as jnp
import numpy as np
from pydantic import PositiveInt
import seqio

from prompt_tuning import prompt_files
from prompt_tuning.data import vocabulary as vocabulary_lib
from prompt_tuning.data.chat_templates import Message
from prompt_tuning.inference import base_models, ranking, shared_arrays
from prompt_tuning.inference.programs import Network
from prompt_tuning.inference.requests import TunedPrompt
from prompt_tuning.interop import hugging_face, parameter_names
from prompt_tuning.mini.ladder import vocabulary as ladder_vocabulary
from prompt_tuning.models.config import TOKEN_EMBEDDING, BaseWeights
from prompt_tuning.models.layers import Config
from prompt_tuning.models.t5.config import T5Config, config_of
from prompt_tuning.types import DType
from t5x import checkpoints
from t5x.configuration import arguments
from t5x.files import compilation_cache
from t5x.formats import int8

AnyPrompt = TunedPrompt | np.ndarray | str | os.PathLike[str]

# Lengths are rounded up to powers of two, at least this, to compile little.
_SHORTEST = 16
# Limits on the rows of a batch, and on its rows times tokens of labels.
_ROWS, _LOGITS = 32, 2048


def _config(base: checkpoints.BaseCheckpoint) -> Config:
  """Returns that of a decoder's folder, or infers that of a T5."""
  stored: Config | None = base.metadata.get("config")
  if stored is not None:
    return dataclasses.replace(stored, dtype="float32")
  rate = 0.0 if base_models.is_of_ladder(base) else 0.1
  return dataclasses.replace(
    config_of(base.arrays), dtype="float32", dropout_rate=rate
  )


class FrozenModel:
  """A frozen T5, or a decoder.

  A process can use any number of models, each from any number of threads.

  Attributes:
    config: Sizes of the network.
    vocabulary: The vocabulary of inputs and targets.
    network: The network's functions, to be compiled.
    shared_folder: The folder through which processes on a CPU share the model's
      arrays, or None; see `shared_arrays`. Set it before the weights are read.
  """

  def __init__(
    self,
    base: checkpoints.BaseCheckpoint,
    config: Config,
    vocabulary: seqio.Vocabulary,
  ):
    """Stores its arguments; see `load`."""
    self._base = base
    self.config = config
    self.vocabulary = vocabulary
    self.network = Network(config, cast(int, vocabulary.eos_id))
    self._table = jax.jit(self.network.table)
    self._encode = jax.jit(self.network.encode)
    self._search = jax.jit(
      self.network.search, static_argnames=("steps", "beams")
    )
    self._score = jax.jit(self.network.score)
    self.shared_folder: str | None = None
    self._lock = threading.Lock()
    self._in_memory: base_models.CheckpointInMemory | None = None

  @classmethod
  @arguments.checked
  def load(
    cls,
    checkpoint: str | os.PathLike[str],
    vocabulary: str | os.PathLike[str] | seqio.Vocabulary | None = None,
    dtype: DType | None = None,
    config: Config | None = None,
    extra_ids: int | None = None,
    base_weights: BaseWeights | None = None,
  ) -> Self:
    """Opens a base model; its weights are read when they are first needed.

    Compiled programs are kept for later processes, as in commands; see
    `t5x.files.compilation_cache`.

    Args:
      checkpoint: A Hugging Face folder, a model's name on the hub, a folder
        `checkpoint_<step>`, or a folder of such folders.
      vocabulary: The model's vocabulary, or its SentencePiece file. By default,
        the file beside the checkpoint; ByT5 and the ladder's models need none.
      dtype: The dtype of activations and of the weights in memory; bfloat16
        halves the latter. By default those of `config`, or float32.
      config: The network's configuration. By default it is read from the folder
        of a decoder. A T5's sizes follow from the checkpoint, and its dropout
        in training is that of the recipes: 0.1, or 0 for the ladder's models.
      extra_ids: As in `vocabulary.of_file`.
      base_weights: "int8" holds the weights in about a quarter of the memory,
        and "int8_products" rounds activations to int8 too. By default, only a
        checkpoint that was converted to int8 is held in int8.

    Raises:
      ValueError: if the checkpoint or the vocabulary is missing, they do not
        fit each other, or the checkpoint has parameters of a method, which the
        model would ignore.
    """
    compilation_cache.enable()
    base = checkpoints.open_checkpoint(str(checkpoint))
    if config is None:
      config = _config(base)
    if dtype is not None:
      config = dataclasses.replace(config, dtype=dtype, param_dtype=dtype)
    if base_weights is not None:
      config = dataclasses.replace(config, base_weights=base_weights)
    own = parameter_names.shapes(config)
    base = int8.held_by(base, own)
    if added := sorted(set(base.arrays) - set(own)):
      raise ValueError(
        f"{base.path} is not a base model: it also has {', '.join(added[:3])}. "
        "Load the model that it was trained on, and pass its "
        "prompt.safetensors as `prompt=`; for other methods, run "
        "python -m t5x.infer."
      )
    if vocabulary is None and base_models.is_of_ladder(base):
      vocabulary = ladder_vocabulary.ladder()
    elif vocabulary is None and not isinstance(config, T5Config):
      folder = base.metadata.get("folder", base.found)
      vocabulary = hugging_face.vocabulary(folder)
    elif vocabulary is None and base_models.is_byt5(config):
      vocabulary = seqio.ByteVocabulary()
    elif not isinstance(vocabulary, seqio.Vocabulary):
      path = str(vocabulary or base_models.vocabulary_file(base.path))
      vocabulary = vocabulary_lib.of_file(path, extra_ids)
    rows = base.arrays[TOKEN_EMBEDDING].shape[0]
    if vocabulary.vocab_size > rows:
      raise ValueError(
        f"Expected a vocabulary of at most {rows} pieces, the number of "
        f"embeddings in {base.path}, got {vocabulary.vocab_size}: it belongs "
        "to another model."
      )
    return cls(base, config, vocabulary)

  @property
  def checkpoint(self) -> str:
    """The folder of the checkpoint."""
    return self._base.path

  @property
  def name(self) -> str:
    """The name in the checkpoint's metadata, or that of its folder."""
    return str(
      self._base.metadata.get("name")
      or os.path.basename(os.path.abspath(self._base.path))
    )

  @functools.cached_property
  def fingerprint(self) -> str:
    """The hash that identifies the model's values."""
    return base_models.base_fingerprint(self._base)

  @functools.cached_property
  def vocabulary_sha256(self) -> str:
    """The hash that identifies the vocabulary."""
    return vocabulary_lib.sha256(self.vocabulary)

  @property
  def in_memory(self) -> checkpoints.BaseCheckpoint:
    """The checkpoint, read into arrays on the first device, once."""
    # Models do not wait for each other; `functools.cached_property` of Python
    # 3.11 would make them.
    with self._lock:
      if self._in_memory is None:
        base, dtype = self._base, self.config.param_dtype
        device = jax.sharding.SingleDeviceSharding(jax.local_devices()[0])
        targets = {}
        for name, x in base.arrays.items():
          held = x.dtype if x.dtype == np.int8 else dtype
          targets[name] = jax.ShapeDtypeStruct(x.shape, held, sharding=device)
        read = functools.partial(base_models.read_for_decoding, base, targets)
        if (folder := self.shared_folder) is None:
          arrays = read()
        else:
          arrays = shared_arrays.made(read, folder, self.fingerprint)
        self._in_memory = base_models.CheckpointInMemory(
          base.path, base.found, base.step, base.arrays, base.metadata, arrays
        )
      return self._in_memory

  @property
  def params(self) -> Mapping[str, Any]:
    """The parameters, floats or int8, as a tree on the first device."""
    return traverse_util.unflatten_dict(self.in_memory.params, sep="/")

  @property
  def embedding(self) -> np.ndarray:
    """The embedding of the vocabulary, [V, H] float32, as it is stored."""
    return base_models.embedding_of(self._base)

  @property
  def input_end(self) -> tuple[int, ...]:
    """The tokens after an input: the end of sequence for a T5, or none."""
    return (self.network.eos_id,) * self.config.ends_inputs

  def encode(
    self, text: str, messages: Sequence[Message] = ()
  ) -> tuple[int, ...]:
    """Returns the tokens of an input, with those that mark start and end.

    Args:
      text: The input.
      messages: The conversation that the text ends, if the model has a chat
        template.

    Raises:
      ValueError: if a decoder's input is empty, or the template refuses it.
    """
    vocabulary: Any = vocabulary_lib.of_inputs(self.vocabulary)
    if messages and getattr(vocabulary, "chat_template", None):
      return (*vocabulary.encode_chat(messages), *self.input_end)
    tokens = (*vocabulary.encode(text), *self.input_end)
    if not tokens:
      raise ValueError(
        "Expected an input with text, because a decoder continues it, got "
        f"{text!r}."
      )
    return tokens

  @arguments.checked
  def generate(
    self,
    inputs: Sequence[str],
    prompt: AnyPrompt | None = None,
    max_length: PositiveInt = 32,
  ) -> list[str]:
    """Generates an answer to each text, by beam search with one beam.

    Such a search may end an answer where greedy decoding would continue.

    Args:
      inputs: Texts.
      prompt: A tuned prompt, its file or folder, or an array [P, H]; None: the
        model alone.
      max_length: Limit on the tokens of an answer.

    Returns:
      An answer for each.

    Raises:
      ValueError: if the prompt belongs to another model, or an argument is of
        another type, such as a single text for `inputs`.
    """
    answers = []
    for count, encoded, tokens in self._batches(inputs, prompt, _ROWS):
      found, _ = self._search(
        self.params, encoded, tokens, steps=max_length, beams=1
      )
      answers += [
        self.vocabulary.decode(row[-1].tolist())
        for row in np.asarray(found)[:count]
      ]
    return answers

  @arguments.checked
  def rank(
    self,
    inputs: Sequence[str],
    labels: Sequence[str],
    prompt: AnyPrompt | None = None,
  ) -> list[dict[str, float]]:
    """Scores labels as answers.

    Args:
      inputs: Texts.
      labels: The labels to choose from.
      prompt: As for `generate`.

    Returns:
      For each input, label -> log likelihood in nats, the likeliest first.

    Raises:
      ValueError: if the prompt belongs to another model, an argument is of
        another type, the vocabulary does not know a label, or it writes two
        labels the same way.
    """
    if not len(labels):
      raise ValueError("Ranking needs labels, got none: pass labels=[...].")
    split = ranking.encode_labels(labels, self.vocabulary, self.network.eos_id)
    ranked = []
    for scores in self._scores(inputs, [split] * len(inputs), prompt):
      order = np.argsort(scores, kind="stable")[::-1]
      ranked.append({labels[i]: float(scores[i]) for i in order})
    return ranked

  def log_likelihoods(
    self, pairs: Sequence[tuple[str, str]], prompt: AnyPrompt | None = None
  ) -> np.ndarray:
    """Returns the log likelihood of one target for each input, in nats.

    Args:
      pairs: Inputs and targets.
      prompt: As for `generate`.
    """
    eos_id = self.network.eos_id
    targets = [[(*self.vocabulary.encode(x), eos_id)] for _, x in pairs]
    scores = self._scores([text for text, _ in pairs], targets, prompt)
    return np.array(scores).reshape(len(pairs))

  def _scores(
    self,
    inputs: Sequence[str],
    labels: Sequence[Sequence[Sequence[int]]],
    prompt: AnyPrompt | None,
  ) -> list[np.ndarray]:
    """Returns the log likelihoods of each input's labels, given as tokens."""
    lengths = [sum(map(len, own)) for own in labels]
    length = _round_up(max(lengths, default=1), _SHORTEST)
    most, scores = max(1, min(_ROWS, _LOGITS // length)), []
    for count, encoded, tokens in self._batches(inputs, prompt, most):
      own = labels[len(scores) : len(scores) + count]
      packed = ranking.pack_labels(own, len(tokens), length)
      log_probs = self._score(self.params, encoded, tokens, packed)
      scores += list(ranking.label_scores(packed, log_probs)[:count])
    return scores

  def _batches(
    self, inputs: Sequence[str], prompt: AnyPrompt | None, most: int
  ) -> Iterator[tuple[int, Any, np.ndarray]]:
    """Yields batches of inputs: their number, encoding and tokens."""
    array = self.prompt_array(prompt)
    positions = 0 if array is None else len(array)
    if array is None:
      array = np.zeros((1, self.config.emb_dim))
    table = self._table(self.params, jnp.asarray(array, jnp.float32)[None])
    room = 0 if self.network.keeps_prompts else positions
    split = [self.encode(text) for text in inputs]
    for start in range(0, len(split), most):
      chosen = split[start : start + most]
      size = min(_round_up(len(chosen), 1), most)
      length = room + _round_up(max(map(len, chosen)), _SHORTEST)
      # Repeats of the first input fill the batch: they never decode longest.
      filled = [*chosen, *chosen[:1] * (size - len(chosen))]
      tokens, lengths = self.network.pack(
        filled, [positions] * size, size, length
      )
      slots = np.zeros(size, np.int32)
      encoded = self._encode(self.params, table, tokens, slots, lengths)
      yield len(chosen), encoded, tokens

  def prompt_array(self, prompt: AnyPrompt | None) -> np.ndarray | None:
    """Returns the array [P, H] of a prompt that fits the model.

    Raises:
      ValueError: if the prompt belongs to another model.
    """
    if prompt is None:
      return None
    if isinstance(prompt, str | os.PathLike):
      prompt = TunedPrompt.load(prompt)
    if not isinstance(prompt, TunedPrompt):
      prompt = TunedPrompt(prompt_files.checked(prompt, "An array"), None)
    if prompt.metadata is not None:
      prompt_files.check_compatible(
        prompt.metadata, self.fingerprint, self.vocabulary_sha256
      )
    width = self.config.emb_dim
    if prompt.array.ndim != 2 or prompt.array.shape[1] != width:
      raise ValueError(
        f"Expected a prompt of width {width}, got "
        f"{list(prompt.array.shape)}: it belongs to another model."
      )
    return prompt.array


def _round_up(number: int, least: int) -> int:
  """Returns the smallest power of two that is at least both."""
  return max(least, 1 << (number - 1).bit_length())
