"""Tests of a prompt's norms, neighbours and class labels."""

import types

import documented
import numpy as np
import pytest

from prompt_tuning.commands import console
from prompt_tuning.inference import neighbours
from prompt_tuning.mini.ladder import vocabulary as ladder_vocabulary
from prompt_tuning.training import base_model

PIECES = ["<pad>", "▁yes", "Yes", "▁no", "▁", "tail", "ment", "▁cat", "|"]


# Splits "entailment" as T5 does; has other words with a leading space.
VOCABULARY = types.SimpleNamespace(
  vocab_size=len(PIECES),
  tokenizer=types.SimpleNamespace(id_to_piece=PIECES.__getitem__),
  encode=lambda text: (
    [4, 6, 5] if text == "entailment" else [PIECES.index(f"▁{text}")]
  ),
)


@pytest.fixture
def embeddings():
  """Embeddings with one axis for each piece, and a row without a piece."""
  table = np.eye(10, dtype=np.float32) * np.arange(1, 11)[:, None]
  table[9] = table[1] * 100
  return table.astype(np.float32)


def _analyse(prompt, embeddings, labels=(), **kwargs):
  return neighbours.analyse(
    np.asarray(prompt, np.float32), embeddings, VOCABULARY, labels, **kwargs
  )


def test_neighbours_are_by_cosine_not_by_length(embeddings):
  # Nearly "▁yes", whose embedding is short; "▁cat" has the larger product.
  vector = 5 * embeddings[1] / 2 + 0.4 * embeddings[7]
  result = _analyse([vector], embeddings, num_neighbours=2)
  (position,) = result.positions.itertuples()
  assert position.neighbours == ["▁yes", "▁cat"]
  norm = np.hypot(5, 3.2)
  assert position.norm == pytest.approx(norm, rel=1e-6)
  assert position.cosines == pytest.approx([5 / norm, 3.2 / norm], rel=1e-6)
  # The mean covers only the nine rows that have a piece.
  assert result.embedding_norm == pytest.approx(5.0)


def test_table_and_summary_show_positions_and_class_labels(embeddings):
  prompt = [*embeddings[[2, 5, 7, 6, 8]], np.zeros(10)]
  labels = ["yes", "no", "entailment"]
  result = _analyse(prompt, embeddings, labels, num_neighbours=1)
  # "Yes" spells yes. "tail" and "ment" are equally long; "ment" comes first.
  assert neighbours.tabulate(result).splitlines()[2:] == [
    "| 0 | 3.0 | `Yes` 1.00 | yes |",
    "| 1 | 6.0 | `tail` 1.00 |  |",
    "| 2 | 8.0 | `▁cat` 1.00 |  |",
    "| 3 | 7.0 | `ment` 1.00 | entailment |",
    "| 4 | 9.0 | `\\|` 1.00 |  |",
    "| 5 | 0.0 | `<pad>` 0.00 |  |",
  ]
  summary = neighbours.summarize(result)
  assert "norm: mean 5.5, 0.0 to 9.0" in summary
  assert "2 of 3 (yes, entailment)" in summary
  spaced = types.SimpleNamespace(
    vocab_size=9, decode=lambda ids: PIECES[ids[0]].replace("▁", " ")
  )
  assert neighbours.pieces_of(spaced) == PIECES


@pytest.mark.parametrize("length", [1, 60])
def test_plot_shows_every_position(embeddings, length):
  prompt = np.tile(embeddings[1], (length, 1))
  result = _analyse(prompt, embeddings, ["yes"], num_neighbours=3)
  figure = neighbours.plot(result, "a $title")
  above, below = figure.axes
  assert len(above.patches) == length
  nearest, third, labels = below.lines
  assert len(nearest.get_xdata()) == len(third.get_xdata()) == length
  assert len(labels.get_xdata()) == length
  np.testing.assert_allclose(nearest.get_ydata(), 1, rtol=1e-6)


@pytest.mark.parametrize(
  ("width", "rows", "count", "message"),
  [
    (4, 10, 5, "prompt has width 4, the model 10"),
    (10, 8, 5, "vocabulary has 9 pieces, the model 8"),
    (10, 10, 0, "Expected 1 to 9 neighbours, got 0"),
  ],
)
def test_refuses_what_is_not_of_a_kind(embeddings, width, rows, count, message):
  with pytest.raises(ValueError, match=message):
    _analyse(np.ones((2, width)), embeddings[:rows], num_neighbours=count)
  with pytest.raises(ValueError, match="pieces in the vocabulary, got ''"):
    neighbours.recognised_by("", lambda text: [], PIECES)


def test_command_line(tmp_path, monkeypatch, capsys):
  checkpoint = documented.ROOT / "checkpoints" / "ladder_xs" / "lm_100"
  table = base_model.token_embedding(str(checkpoint))
  np.save(tmp_path / "prompt.npy", table[[5, 9]] * 3)
  monkeypatch.chdir(tmp_path)
  words = [f"--checkpoint={checkpoint}", "-n=1"]
  assert console.main(["inspect", "prompt.npy", *words]) == 0
  printed = capsys.readouterr().out
  word = ladder_vocabulary.ladder().decode([5])
  assert f"`{word}` 1.00" in printed
  assert "plot: prompt.png" in printed
  assert (tmp_path / "prompt.png").stat().st_size > 10_000
