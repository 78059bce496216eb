"""Norms of a trained prompt, and its nearest neighbours in the vocabulary.

Section 7 of the paper looks at the pieces with the largest cosines for each
position. For prompts that start from class labels, the labels are among them.
"""

from collections.abc import Callable, Sequence
import dataclasses

from matplotlib.figure import Figure
import numpy as np
import pandas as pd
import seqio

# SentencePiece's sign for a space.
SPACE = "\u2581"
# The names of more positions do not fit under a plot.
_NAMED_POSITIONS = 50
# Okabe and Ito's colours, which colour-blind readers can tell apart.
_BLUE, _ORANGE, _GREEN = "#0072B2", "#D55E00", "#009E73"


@dataclasses.dataclass(frozen=True)
class Analysis:
  """A comparison of a prompt with the embeddings of its model.

  Attributes:
    positions: A row for each position of the prompt: its Euclidean `norm`; its
      `neighbours`, the pieces with the largest cosines, the largest first;
      their `cosines`, in [-1, 1]; and the class `labels` among the neighbours.
    embedding_norm: Mean Euclidean norm of the vocabulary's embeddings.
    labels: The class labels to look for.
  """

  positions: pd.DataFrame
  embedding_norm: float
  labels: tuple[str, ...]


def pieces_of(vocabulary: seqio.Vocabulary) -> list[str]:
  """Returns the text of every id, with SentencePiece's sign for spaces."""
  tokenizer = getattr(vocabulary, "tokenizer", None)
  to_piece = getattr(tokenizer, "id_to_piece", None)
  return [
    to_piece(token)
    if to_piece
    else vocabulary.decode([token]).replace(" ", SPACE)
    for token in range(vocabulary.vocab_size)
  ]


def recognised_by(
  label: str, encode: Callable[[str], Sequence[int]], pieces: Sequence[str]
) -> set[int]:
  """Returns the ids that represent a class label.

  They are the pieces that spell it, regardless of case and a leading space, and
  the longest of the pieces that it consists of: "tail" for "entailment".

  Args:
    label: A word.
    encode: Text -> ids.
    pieces: The text of every id.

  Raises:
    ValueError: if the label has no pieces.
  """
  ids = encode(label)
  if not len(ids):
    raise ValueError(
      f"Expected class labels with pieces in the vocabulary, got {label!r}."
    )
  spelt = {
    token
    for token, piece in enumerate(pieces)
    if piece.strip(SPACE).casefold() == label.strip().casefold()
  }
  made_of = max(ids, key=lambda token: len(pieces[token].strip(SPACE)))
  return spelt | {int(made_of)}


def analyse(
  prompt: np.ndarray,
  embeddings: np.ndarray,
  vocabulary: seqio.Vocabulary,
  labels: Sequence[str] = (),
  num_neighbours: int = 5,
) -> Analysis:
  """Compares a prompt with its model's vocabulary.

  Args:
    prompt: [P, H] The prompt.
    embeddings: [V, H] The model's embeddings. Rows past the end of the
      vocabulary are ignored.
    vocabulary: The model's vocabulary.
    labels: Class labels to look for.
    num_neighbours: Number of pieces for each position.

  Raises:
    ValueError: if prompt, model and vocabulary do not belong together.
  """
  pieces = pieces_of(vocabulary)
  if prompt.shape[1:] != embeddings.shape[1:]:
    raise ValueError(
      f"The prompt has width {prompt.shape[1]}, the model "
      f"{embeddings.shape[1]}. Pass the checkpoint that it was trained on."
    )
  if len(pieces) > len(embeddings):
    raise ValueError(
      f"The vocabulary has {len(pieces)} pieces, the model {len(embeddings)} "
      "embeddings. Pass the vocabulary of the checkpoint."
    )
  if not 1 <= num_neighbours <= len(pieces):
    raise ValueError(
      f"Expected 1 to {len(pieces)} neighbours, got {num_neighbours}."
    )
  embeddings = embeddings[: len(pieces)]
  norms = np.linalg.norm(prompt, axis=1)
  embedding_norms = np.linalg.norm(embeddings, axis=1)
  # A vector of zeros has cosine 0 with everything.
  tiny = np.finfo(np.float32).tiny
  cosines = (prompt / np.maximum(norms, tiny)[:, None]) @ (
    embeddings / np.maximum(embedding_norms, tiny)[:, None]
  ).T  # [P, V]
  nearest = np.argsort(-cosines, axis=1, kind="stable")[:, :num_neighbours]
  ids = {
    label: recognised_by(label, vocabulary.encode, pieces) for label in labels
  }
  positions = {
    "norm": norms.tolist(),
    "neighbours": [[pieces[token] for token in row] for row in nearest],
    "cosines": np.take_along_axis(cosines, nearest, axis=1).tolist(),
    "labels": [
      [label for label in labels if not ids[label].isdisjoint(row)]
      for row in nearest.tolist()
    ],
  }
  mean = float(embedding_norms.mean())
  return Analysis(pd.DataFrame(positions), mean, tuple(labels))


def summarize(analysis: Analysis) -> str:
  """Returns a few lines that summarize the table."""
  norms, cosines = analysis.positions["norm"], analysis.positions["cosines"]
  nearest = cosines.str[0]
  lines = [
    f"{len(norms)} positions",
    f"norm: mean {norms.mean():.1f}, {norms.min():.1f} to {norms.max():.1f}; "
    f"vocabulary's mean {analysis.embedding_norm:.1f}",
    f"cosine of the nearest piece: mean {nearest.mean():.3f}, "
    f"{nearest.min():.3f} to {nearest.max():.3f}",
  ]
  if analysis.labels:
    seen = set(analysis.positions["labels"].explode())
    found = [label for label in analysis.labels if label in seen]
    lines.append(
      f"class labels among the nearest {len(cosines[0])}: {len(found)} of "
      f"{len(analysis.labels)}" + (f" ({', '.join(found)})" if found else "")
    )
  return "\n".join(lines)


def tabulate(analysis: Analysis) -> str:
  """Returns a Markdown table with a row for each position."""
  header = ["Position", "Norm", "Nearest pieces, cosine", "Class labels"]
  rows = [header, ["---"] * len(header)]
  for number, norm, *nearest, labels in analysis.positions.itertuples():
    texts = (f"`{x}` {cosine:.2f}" for x, cosine in zip(*nearest, strict=True))
    row = [str(number), f"{norm:.1f}", ", ".join(texts), ", ".join(labels)]
    rows.append(row)
  escaped = ([text.replace("|", "\\|") for text in row] for row in rows)
  return "\n".join(f"| {' | '.join(row)} |" for row in escaped)


def plot(analysis: Analysis, title: str) -> Figure:
  """Plots norms and cosines by position, and marks nearby class labels."""
  positions = analysis.positions
  numbers, cosines = positions.index, positions["cosines"]
  figure = Figure(
    figsize=(min(16, max(8, 0.14 * len(positions) + 2)), 6.5),
    layout="constrained",
  )
  above, below = figure.subplots(2, sharex=True)
  figure.suptitle(title, parse_math=False)

  above.bar(numbers, positions["norm"], color=_BLUE, label="prompt")
  above.axhline(
    analysis.embedding_norm,
    color="black",
    linestyle="--",
    label="vocabulary, mean",
  )
  above.set_ylabel("Euclidean norm")

  kth = len(cosines[0])
  series = [(0, "o", _BLUE, "nearest piece")]
  if kth > 1:
    series.append((kth - 1, "v", _ORANGE, f"nearest piece no. {kth}"))
  for i, marker, color, name in series:
    style = {"color": color, "markersize": 4, "label": name}
    below.plot(numbers, cosines.str[i], marker, **style)
  labelled = cosines[positions["labels"].map(bool)]
  if len(labelled):
    below.plot(
      labelled.str[0],
      "s",
      color=_GREEN,
      markersize=10,
      markerfacecolor="none",
      markeredgewidth=1.5,
      label="a class label is near",
    )
  below.set_ylabel("cosine")
  if len(positions) <= _NAMED_POSITIONS:
    below.set_xlabel("position in the prompt, and its nearest piece")
    pieces = positions["neighbours"].str[0]
    names = [f"{piece}  {n}" for n, piece in pieces.items()]
    below.set_xticks(numbers, names, rotation=90, parse_math=False)
  else:
    below.set_xlabel("position in the prompt")
  below.set_ylim(top=1.02)
  for axes in (above, below):
    axes.spines[["top", "right"]].set_visible(False)
    axes.grid(axis="y", alpha=0.3)
    axes.legend(loc="lower left", bbox_to_anchor=(0, 1), ncols=3, frameon=False)
  return figure
