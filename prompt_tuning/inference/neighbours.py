"""Norms of a trained prompt, and its nearest neighbours in the vocabulary.

Section 7 of the paper looks at the pieces that are nearest to each position by
cosine. For prompts that start from class labels, the labels are among them.
"""

from collections.abc import Callable, Sequence
import dataclasses

from matplotlib.figure import Figure
import numpy as np
import seqio

# SentencePiece's sign for a space.
_SPACE = "\u2581"
# The names of more positions do not fit under a plot.
_NAMED_POSITIONS = 50
# Okabe and Ito's colours, which colour-blind readers can tell apart.
_BLUE, _ORANGE, _GREEN = "#0072B2", "#D55E00", "#009E73"


@dataclasses.dataclass(frozen=True)
class Position:
  """One position of a prompt.

  Attributes:
    norm: Euclidean norm of the prompt's vector.
    neighbours: The pieces with the largest cosines, the largest first.
    cosines: Their cosines, in [-1, 1].
    labels: The class labels among the neighbours.
  """

  norm: float
  neighbours: tuple[str, ...]
  cosines: tuple[float, ...]
  labels: tuple[str, ...]


@dataclasses.dataclass(frozen=True)
class Analysis:
  """A comparison of a prompt with the embeddings of its model.

  Attributes:
    positions: The prompt's positions, in order.
    embedding_norm: Mean Euclidean norm of the vocabulary's embeddings.
    labels: The class labels to look for.
  """

  positions: tuple[Position, ...]
  embedding_norm: float
  labels: tuple[str, ...]

  @property
  def found(self) -> tuple[str, ...]:
    """The labels among the neighbours of any position."""
    seen = {label for position in self.positions for label in position.labels}
    return tuple(label for label in self.labels if label in seen)


def pieces_of(vocabulary: seqio.Vocabulary) -> list[str]:
  """Returns the text of every id, with SentencePiece's sign for spaces."""
  tokenizer = getattr(vocabulary, "tokenizer", None)
  to_piece = getattr(tokenizer, "id_to_piece", None)
  return [
    to_piece(token) if to_piece else vocabulary.decode([token])
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
    if piece.strip(_SPACE).casefold() == label.strip().casefold()
  }
  made_of = max(ids, key=lambda token: len(pieces[token].strip(_SPACE)))
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
  return Analysis(
    positions=tuple(
      Position(
        norm=float(norm),
        neighbours=tuple(pieces[token] for token in tokens),
        cosines=tuple(float(row[token]) for token in tokens),
        labels=tuple(
          label for label in labels if not ids[label].isdisjoint(tokens)
        ),
      )
      for norm, row, tokens in zip(
        norms, cosines, nearest.tolist(), strict=True
      )
    ),
    embedding_norm=float(embedding_norms.mean()),
    labels=tuple(labels),
  )


def summarize(analysis: Analysis) -> str:
  """Returns a few lines that summarize the table."""
  norms = [position.norm for position in analysis.positions]
  cosines = [position.cosines[0] for position in analysis.positions]
  lines = [
    f"{len(norms)} positions",
    f"norm: mean {np.mean(norms):.1f}, {min(norms):.1f} to {max(norms):.1f}; "
    f"vocabulary's mean {analysis.embedding_norm:.1f}",
    f"cosine of the nearest piece: mean {np.mean(cosines):.3f}, "
    f"{min(cosines):.3f} to {max(cosines):.3f}",
  ]
  if analysis.labels:
    found = analysis.found
    lines.append(
      f"class labels among the nearest {len(analysis.positions[0].cosines)}: "
      f"{len(found)} of {len(analysis.labels)}"
      + (f" ({', '.join(found)})" if found else "")
    )
  return "\n".join(lines)


def tabulate(analysis: Analysis) -> str:
  """Returns a Markdown table with a row for each position."""
  header = ["Position", "Norm", "Nearest pieces, cosine", "Class labels"]
  rows = [header, ["---"] * len(header)]
  for number, position in enumerate(analysis.positions):
    nearest = ", ".join(
      f"`{piece}` {cosine:.2f}"
      for piece, cosine in zip(
        position.neighbours, position.cosines, strict=True
      )
    )
    labels = ", ".join(position.labels)
    rows.append([str(number), f"{position.norm:.1f}", nearest, labels])
  escaped = ([text.replace("|", "\\|") for text in row] for row in rows)
  return "\n".join(f"| {' | '.join(row)} |" for row in escaped)


def plot(analysis: Analysis, title: str) -> Figure:
  """Plots norms and cosines by position, and marks nearby class labels."""
  positions = analysis.positions
  numbers = np.arange(len(positions))
  figure = Figure(
    figsize=(min(16, max(8, 0.14 * len(positions) + 2)), 6.5),
    layout="constrained",
  )
  above, below = figure.subplots(2, sharex=True)
  figure.suptitle(title, parse_math=False)

  above.bar(numbers, [p.norm for p in positions], color=_BLUE, label="prompt")
  above.axhline(
    analysis.embedding_norm,
    color="black",
    linestyle="--",
    label="vocabulary, mean",
  )
  above.set_ylabel("Euclidean norm")

  kth = len(positions[0].cosines)
  series = [(0, "o", _BLUE, "nearest piece")]
  if kth > 1:
    series.append((kth - 1, "v", _ORANGE, f"nearest piece no. {kth}"))
  for index, marker, color, name in series:
    below.plot(
      numbers,
      [p.cosines[index] for p in positions],
      marker,
      color=color,
      markersize=4,
      label=name,
    )
  labelled = [n for n in numbers if positions[n].labels]
  if labelled:
    below.plot(
      labelled,
      [positions[n].cosines[0] for n in labelled],
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
    below.set_xticks(
      numbers,
      [f"{p.neighbours[0]}  {n}" for n, p in enumerate(positions)],
      rotation=90,
      parse_math=False,
    )
  else:
    below.set_xlabel("position in the prompt")
  below.set_ylim(top=1.02)
  for axes in (above, below):
    axes.spines[["top", "right"]].set_visible(False)
    axes.grid(axis="y", alpha=0.3)
    axes.legend(loc="lower left", bbox_to_anchor=(0, 1), ncols=3, frameon=False)
  return figure
