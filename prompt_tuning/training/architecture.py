"""What a checkpoint's arrays say of the model that they belong to."""

from collections.abc import Mapping
import re
from typing import Any

from etils import epath
import seqio

from prompt_tuning.data import vocabulary as vocabulary_lib
from prompt_tuning.mini.ladder import vocabulary as ladder_vocabulary
from prompt_tuning.t5 import network, parameter_shapes
from prompt_tuning.t5.config import T5Config
from prompt_tuning.types import DType
from t5x import checkpoints

LADDER = "ladder_"
# Sentinels of T5's vocabularies, behind the pieces of their file.
_EXTRA_IDS = 100


def is_of_ladder(base: "checkpoints.BaseCheckpoint") -> bool:
  """Whether a checkpoint is one of the miniatures."""
  return str(base.metadata.get("name") or "").startswith(LADDER)


def config_of(
  shapes: Mapping[str, Any],
  dtype: DType = "float32",
  dropout_rate: float = 0.1,
) -> T5Config:
  """Finds out the sizes of a T5.

  The shapes do not say the activation function, nor the distance at which the
  relative bias ends: they are taken to be those of T5 1.1 and FLAN-T5 (gated
  gelu) or, where the MLP has one branch, of the first T5 (relu).

  Args:
    shapes: Name -> what has a shape, with T5X's names.
    dtype: Of activations.
    dropout_rate: In training.

  Raises:
    ValueError: if an array is missing that tells a size.
  """

  def shape(name: str) -> tuple[int, ...]:
    if name not in shapes:
      raise ValueError(
        f"Expected the parameter {name} of a T5 with T5X's names, got "
        f"{', '.join(list(shapes)[:5])}, ... Convert the model first: python "
        "scripts/convert_checkpoint.py. Of another architecture, give its "
        "config."
      )
    return tuple(shapes[name].shape)

  vocab_size, emb_dim = shape("token_embedder/embedding")
  num_heads, num_buckets = shape("encoder/relpos_bias/rel_embedding")
  is_gated = "encoder/layers_0/mlp/wi_0/kernel" in shapes
  mlp = f"encoder/layers_0/mlp/{'wi_0' if is_gated else 'wi'}/kernel"
  return T5Config(
    vocab_size=vocab_size,
    emb_dim=emb_dim,
    num_heads=num_heads,
    num_encoder_layers=_num_layers(shapes, "encoder"),
    num_decoder_layers=_num_layers(shapes, "decoder"),
    head_dim=shape("encoder/layers_0/attention/query/kernel")[1] // num_heads,
    mlp_dim=shape(mlp)[1],
    dtype=dtype,
    mlp_activations=("gelu", "linear") if is_gated else ("relu",),
    dropout_rate=dropout_rate,
    logits_via_embedding="decoder/logits_dense/kernel" not in shapes,
    relative_attention_num_buckets=num_buckets,
  )


def added_to(shapes: Mapping[str, Any], config: T5Config) -> list[str]:
  """Returns the parameters that are not the T5's own: those of methods."""
  own = parameter_shapes.parameter_shapes(network.Transformer(config))
  return sorted(set(shapes) - set(own))


def _num_layers(shapes: Mapping[str, Any], stack: str) -> int:
  pattern = re.compile(rf"{stack}/layers_(\d+)/.*")
  found = {int(m[1]) for name in shapes if (m := pattern.fullmatch(name))}
  return max(found, default=-1) + 1


def vocabulary_of(
  base: "checkpoints.BaseCheckpoint", given: str | seqio.Vocabulary | None
) -> seqio.Vocabulary:
  """Finds a model's vocabulary.

  Args:
    base: The model.
    given: Its vocabulary, or the SentencePiece file of it. None: the file
      `*.model` beside the checkpoint; for the ladder's models, their words.

  Raises:
    ValueError: if there is none, or it has more pieces than the model has
      embeddings.
  """
  if given is None and is_of_ladder(base):
    vocabulary = ladder_vocabulary.ladder()
  elif isinstance(given, seqio.Vocabulary):
    vocabulary = given
  else:
    path = str(given) if given is not None else beside(base.path)
    vocabulary = vocabulary_lib.checked(
      seqio.SentencePieceVocabulary(path, _EXTRA_IDS)
    )
  rows = base.shapes["token_embedder/embedding"].shape[0]
  if vocabulary.vocab_size > rows:
    raise ValueError(
      f"Expected a vocabulary of at most {rows} pieces, as {base.path} has "
      f"embeddings, got {vocabulary.vocab_size}: it is that of another model."
    )
  return vocabulary


def beside(path: str) -> str:
  """Finds the SentencePiece file `*.model` beside a checkpoint.

  Args:
    path: As for `t5x.checkpoints.find_checkpoint`.

  Raises:
    ValueError: if there is none.
  """
  folder = epath.Path(checkpoints.find_checkpoint(path))
  found = [
    *sorted(folder.glob("*.model")),
    *sorted(folder.parent.glob("*.model")),
  ]
  if not found:
    raise ValueError(
      f"Expected the model's SentencePiece file, such as spiece.model, in "
      f"{folder} or {folder.parent}, got none. Put it there, or give it: "
      "load(..., vocabulary='spiece.model')."
    )
  return str(found[0])
